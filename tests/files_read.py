"""Files of texts as the tests read them."""

import warnings

import pytest

from captum_tracinwe.app.files import InputError, Reading, read_texts


def read(path, reading=None):
    """Texts and labels; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [(row.text, row.label) for row in read_texts(path, reading or Reading())]


def refused(path, reading=None):
    """What is said of a file that cannot be used, in one line."""
    with pytest.raises(InputError) as caught:
        read_texts(path, reading or Reading())
    assert "\n" not in str(caught.value)
    return str(caught.value)
