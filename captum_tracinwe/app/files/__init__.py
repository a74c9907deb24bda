"""Labelled texts from files as people have them: what a file's form is, how it is read, and which of its lines cannot be used."""

from captum_tracinwe.app.files.forms import on_disk
from captum_tracinwe.app.files.problems import InputError, Problems, listed
from captum_tracinwe.app.files.reading import Reading
from captum_tracinwe.app.files.rows import Row, in_one
from captum_tracinwe.app.files.texts import read_texts

__all__ = ["InputError", "Problems", "Reading", "Row", "in_one", "listed", "on_disk", "read_texts"]
