"""Where pictures lie: every kind of place gives the same pictures as a folder does, in any process."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import ImageError
from diffeat.features import Picture


def drawn(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6 + seed, 8, 3), np.uint8))


# --- pictures that go to another process ---------------------------------------------------------


def test_a_pickled_picture_is_small_and_opens_again(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    drawn(1).resize((300, 200)).save(file)
    picture = Picture.of(file, "a cat", name="a.png")
    picture.apart = 3
    picture.key  # noqa: B018 (opens it)
    data = pickle.dumps(picture)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert (again.name, again.text, again.apart, again.digest) == ("a.png", "a cat", 3, picture.digest)
    assert np.array_equal(np.asarray(again.image), np.asarray(picture.image))
    array = Picture.of(np.asarray(drawn(2)))
    assert pickle.loads(pickle.dumps(array)).key == array.key


def test_a_file_is_read_once_to_be_opened_and_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    drawn(1).save(file)
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert Picture.of(file).digest == expected
    picture = Picture.of(file)
    picture.image  # noqa: B018
    file.unlink()
    assert picture.digest == expected
    with pytest.raises(ImageError, match=r"a\.png: no such file"):
        Picture.of(file).image  # noqa: B018


def test_a_stamp_tells_a_file_that_changed_without_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    drawn(1).save(file)
    before = Picture.of(file).stamp
    assert before == Picture.of(file).stamp
    os.utime(file, ns=(1, 1))
    assert before != Picture.of(file).stamp is not None
    assert Picture("own", lambda: drawn(1)).stamp is None is Picture.of(tmp_path / "no.png").stamp
