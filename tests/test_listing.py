"""Names of pictures and the texts for them: no two alike, the same from wherever the folder is seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffeat.errors import ImageError, InvalidValueError
from diffeat.features import Picture, list_pictures


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(*arguments, **options) -> list[str]:
    return [picture.name for picture in list_pictures(*arguments, **options)]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return touch(tmp_path / "small", "a/1.png", "b/1.png", "b/2.jpg", "b/notes.txt")


# --- names ---------------------------------------------------------------------------------------


def test_names_are_relative_to_the_folder_given_however_it_is_spelt(small: Path, monkeypatch) -> None:
    expected = ["a/1.png", "b/1.png", "b/2.jpg"]
    monkeypatch.chdir(small.parent)
    assert names("small") == names(small) == names("./small/") == names("small/../small/a/..") == expected
    monkeypatch.chdir(small / "a")
    assert names("..") == expected
    assert names(".") == ["1.png"]
    assert names("1.png") == names(small / "a" / "1.png") == ["1.png"]


def test_a_picture_reached_twice_is_listed_once(small: Path, monkeypatch) -> None:
    monkeypatch.chdir(small.parent)
    assert names(["small", small, small / "b" / "2.jpg"]) == ["a/1.png", "b/1.png", "b/2.jpg"]


def test_two_pictures_of_one_name_are_refused_with_the_way_out(small: Path) -> None:
    with pytest.raises(
        InvalidValueError, match=r"a/1\.png and .*b/1\.png would both be called '1\.png'.*--root"
    ) as error:
        list_pictures([small / "a", small / "b"])
    root = str(error.value).split("--root ")[1].split(",")[0]
    assert Path(root) == small
    assert names([small / "a", small / "b"], root=root) == ["a/1.png", "b/1.png", "b/2.jpg"]
    with pytest.raises(InvalidValueError, match="does not lie in the root"):
        list_pictures(small / "a", root=small / "b")


def test_nothing_found_is_an_error_that_says_what_was_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(
        InvalidValueError, match=r"no pictures in .*1 files are passed over; .*notes\.txt: not a picture"
    ):
        list_pictures(tmp_path)
    with pytest.raises(InvalidValueError, match="no pictures in nothing"):
        list_pictures([])


def test_links_to_folders_are_followed_once_and_never_in_circles(small: Path, tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "9.png")
    (small / "0-link").symlink_to(tmp_path / "elsewhere")
    (small / "b" / "up").symlink_to(small)
    (small / "0-twice").symlink_to(small / "b")
    (small / "lone.png").symlink_to(tmp_path / "elsewhere" / "9.png")
    listing = list_pictures(small)
    assert [p.name for p in listing] == ["0-link/9.png", "a/1.png", "b/1.png", "b/2.jpg", "lone.png"]
    again = {Path(path).name: reason for path, reason in listing.skipped if "searched already" in reason}
    assert set(again) == {"0-twice", "up"}


def test_a_link_that_leads_nowhere_costs_no_other_picture(small: Path) -> None:
    (small / "a" / "0-itself").symlink_to("0-itself")
    (small / "a" / "0-long").symlink_to("n" * 300)
    (small / "0-itself.png").symlink_to("0-itself.png")
    listing = list_pictures(small)
    assert [p.name for p in listing] == ["0-itself.png", "a/1.png", "b/1.png", "b/2.jpg"]
    with pytest.raises(ImageError, match=r"0-itself\.png"):
        listing[0].image  # noqa: B018


def test_names_that_are_not_utf_8_or_hold_anything(tmp_path: Path) -> None:
    touch(tmp_path, "caf\udce9.png", "new\nline.png", "[bold]x[x].png", "\x1b[31m.png", "a" * 250 + ".png")
    listing = list_pictures(tmp_path)
    assert {"caf\\xe9.png", "new\nline.png", "[bold]x[x].png"} <= {p.name for p in listing}
    for picture, path in zip(listing, listing.paths, strict=True):
        picture.name.encode()
        assert Path(path).exists()
        with pytest.raises(Exception, match="empty") as error:
            picture.image  # noqa: B018
        assert str(error.value).isprintable()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab/."), min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
def test_names_are_unique_and_lead_back_to_the_file(tmp_path_factory, relative: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    files = set()
    for text in relative:
        parts = [p.replace(".", "c") for p in text.split("/") if p]
        file = folder.joinpath("d", *parts[:-1], (parts or ["x"])[-1] + ".png")
        if not any(parent.is_file() for parent in file.parents):
            touch(file.parent, file.name)
            files.add(file)
    listing = list_pictures(folder)
    assert sorted(folder / p.name for p in listing) == sorted(files)
    assert [p.name for p in list_pictures(folder / "d", root=folder)] == [p.name for p in listing]


# --- texts ---------------------------------------------------------------------------------------


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "prompts.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def texts(small: Path, csv: str | bytes, **options) -> dict[str, str | None]:
    return {p.name: p.text for p in list_pictures(small, prompts=write(small.parent, csv), **options)}


def test_rows_name_pictures_by_name_by_path_or_by_an_end_that_only_one_has(small: Path) -> None:
    expected = {"a/1.png": "cat", "b/1.png": "dog", "b/2.jpg": "a cup, red"}
    csv = f'\ufeffimage,prompt\n./a/1.png,cat\n{small}/b/1.png,dog\n2.jpg,"a cup, red"\n'
    assert texts(small, csv) == expected
    assert texts(small, "prompt,more,image\ncat,,a/1.png\n", default="x")["b/1.png"] == "x"
    assert texts(small, csv + "a/1.png,cat\n") == expected  # said twice, and the same
    json = small.parent / "prompts.json"
    json.write_text('{"a/1.png": "cat", "b/1.png": "dog", "2.jpg": "a cup, red"}')
    assert {p.name: p.text for p in list_pictures(small, prompts=json)} == expected
    json.write_text('{"a/1.png": "cat", "./a/1.png": "dog"}')
    with pytest.raises(InvalidValueError, match=r"prompts\.json': 'a/1\.png' has another text already"):
        list_pictures(small, prompts=json)


def test_a_whole_name_comes_before_an_end(small: Path) -> None:
    touch(small, "1.png")
    csv = "image,prompt\n1.png,top\na/1.png,a\nb/1.png,b\nb/2.jpg,c\n"
    assert texts(small, csv)["1.png"] == "top"


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("image,prompt\n1.png,x\n", r"line 2: '1\.png' may be 'a/1\.png' or 'b/1\.png'"),
        ("image,prompt\n3.png,x\n", r"line 2: none of the pictures is '3\.png'"),
        ("image,prompt\na/1.png,x\n", r"no text for 2 of 3 pictures, the first is 'b/1\.png'.*--prompt"),
        ("image,prompt\na/1.png,x\n2.jpg,y\na/1.png,z\n", r"line 4: 'a/1\.png' has another text already \(.*line 2\)"),
        ("image,text\na/1.png,x\n", r"one column 'prompt'; it has image, text"),
        ("image,prompt,prompt\na/1.png,x,y\n", "one column 'prompt'"),
        ("image,prompt\na/1.png,a cat, red\n", "line 2, has 3 cells, but there are 2 columns"),
        ("image,prompt\na/1.png\n", "line 2, has 1 cells"),
        (b"image,prompt\na/1.png,caf\xe9\n", r"not UTF-8 text in line 2"),
        (b'image,prompt\na/1.png,"x\n', "line 2: unexpected end of data"),
        (b"\x00\x01\x02", "one column 'image'|NUL"),
        ("", "one column 'image'; it has none"),
    ],
)
def test_prompt_files_that_do_not_fit_are_refused_in_one_line(small: Path, csv: str | bytes, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as error:
        texts(small, csv)
    assert "prompts.csv" in str(error.value)
    assert str(error.value).isprintable()


def test_a_prompt_file_is_a_file(small: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "a folder"),
        (tmp_path / "no", "There is no"),
    ):
        with pytest.raises(InvalidValueError, match=reason):
            list_pictures(small, prompts=path)


def test_a_text_that_is_not_utf_8_is_refused(small: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"a/1\.png: its text is not UTF-8: caf\\xe9"):
        list_pictures(small, default="caf\udce9")
    with pytest.raises(InvalidValueError, match="not UTF-8"):
        Picture.of(small / "a" / "1.png", "\ud800")
