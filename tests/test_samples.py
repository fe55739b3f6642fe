"""The photographs that come along, and their masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffeat.datasets.labelled import IGNORE
from diffeat.datasets.samples import LABELLED, write_labelled_samples
from diffeat.errors import InvalidValueError


def test_labelled_samples_are_photographs_with_masks_of_their_size(tmp_path: Path) -> None:
    photos = write_labelled_samples(tmp_path)
    assert [p.stem for p in photos] == list(LABELLED)
    for photo in photos:
        with Image.open(photo) as picture, Image.open(tmp_path / "masks" / photo.name) as mask:
            assert picture.size == mask.size
            assert mask.mode == "P"
            labels = np.array(mask)
        values, counts = np.unique(labels, return_counts=True)
        assert set(values) == ({0} if photo.stem == "grass" else {0, 1, IGNORE})
        assert counts[values == IGNORE].sum() < 0.1 * labels.size
    cell = np.array(Image.open(tmp_path / "masks" / "cell.png"))
    bright = np.array(Image.open(tmp_path / "images" / "cell.png"))
    assert bright[cell == 1].mean() > bright[cell == 0].mean() + 50
    with pytest.raises(InvalidValueError, match="is there already"):
        write_labelled_samples(tmp_path)
