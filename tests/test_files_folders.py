"""A folder for each class: its texts, what is left out, and what cannot be read."""

import os

import pytest
from files_read import refused

from captum_tracinwe.app.files import Reading, on_disk, read_texts


@pytest.fixture
def folder(tmp_path):
    for name, text in {
        "pos/b.txt": "good\n",
        "pos/a.txt": "fine é",
        "neg/1": "bad\nworse\r\n",
        "neg/c.TXT": "awful",
    }.items():
        place = tmp_path / "films" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode())
    return tmp_path / "films"


def test_each_folder_is_a_class_and_each_file_a_text(folder):
    rows = read_texts(folder)
    assert [(row.text, row.label, row.place) for row in rows] == [
        ("bad\nworse", "neg", "neg/1"),
        ("awful", "neg", "neg/c.TXT"),
        ("fine é", "pos", "pos/a.txt"),
        ("good", "pos", "pos/b.txt"),
    ]
    assert [row.line for row in rows] == [1, 2, 3, 4]
    (folder / "pos/.DS_Store").touch()  # nobody sees it
    assert read_texts(folder) == rows


def test_what_is_of_another_form_is_left_out_and_that_is_said(folder):
    (folder / "README.md").write_text("about")
    (folder / "pos/picture.png").touch()
    (folder / "pos/more").mkdir()
    with pytest.warns(
        UserWarning, match=r"3 files or folders .* are left out \('README.md', 'pos/more', 'pos/picture.png'\)"
    ):
        assert len(read_texts(folder)) == 4


def test_files_that_cannot_be_read_are_told_together(folder, monkeypatch):
    (folder / "pos/c.txt").symlink_to("nowhere")
    (folder / "pos/d.txt").symlink_to("d.txt")
    (folder / "pos/e.txt").write_bytes(b"caf\xe9")
    (folder / "neg/empty.txt").touch()
    os.mkfifo(folder / "neg/pipe")
    said = refused(folder)
    assert "5 of 9 cannot be used: neg/empty.txt: 'text' is empty" in said
    assert "neg/pipe: not a file" in said
    assert "pos/c.txt: cannot be read (No such file or directory)" in said
    assert "pos/d.txt: cannot be read (Too many levels of symbolic links)" in said
    assert "pos/e.txt: not UTF-8 text; give the encoding, such as --encoding" in said


def test_a_file_that_may_not_be_read_is_told(folder, monkeypatch):
    from pathlib import Path

    before = Path.read_bytes

    def forbidden(path):
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return before(path)

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert "pos/a.txt: cannot be read (Permission denied); remove it, or let it be read" in refused(folder)


def test_another_encoding_is_given_or_found(folder):
    (folder / "pos/e.txt").write_bytes(b"caf\xe9")
    assert [row.text for row in read_texts(folder, Reading(encoding="latin-1"))][-1] == "café"
    (folder / "pos/e.txt").write_bytes("café".encode("utf-16"))
    assert [row.text for row in read_texts(folder)][-1] == "café"


def test_links_and_names_of_any_kind(folder):
    (folder / "linked").symlink_to(folder / "pos")
    odd = folder / "a\nb"
    odd.mkdir()
    (odd / "c\td.txt").write_text("odd")
    rows = read_texts(folder)
    assert [row.label for row in rows] == ["a\nb", "linked", "linked", "neg", "neg", "pos", "pos"]
    (odd / "c\td.txt").write_text("")
    assert "a b/c d.txt: 'text' is empty" in refused(folder)
    half = os.fsencode(folder) + b"/\xff"
    os.mkdir(half)
    with open(half + b"/a.txt", "w") as file:
        file.write("text")
    assert "'label' holds half a character" in refused(folder)


def test_folders_of_other_kinds_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/a.txt").write_text("a")
    for name in ("empty", "flat"):
        assert "a folder, not a file, and without texts; expected a folder for each class" in refused(tmp_path / name)
    assert "a folder of texts has no columns; leave --text-columns out" in refused(folder, Reading(("a", "b")))
    os.mkfifo(tmp_path / "x.csv")
    assert "not a file (a pipe or a device)" in refused(tmp_path / "x.csv")
    (tmp_path / "y.csv").write_text("text,label\na,b\n")
    assert "which has no splits; leave ':train' out" in refused(f"{tmp_path / 'y.csv'}:train")


def test_the_file_behind_a_name_with_a_split(folder):
    assert on_disk(f"{folder}:train") == folder
    assert str(on_disk("org/name:train")) == "org/name:train"
    odd = folder / "a:b"
    odd.touch()
    assert on_disk(odd) == odd
