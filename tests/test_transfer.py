"""Marks of one picture in others: shifted pictures whose answer is known, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.datasets.csv_pairs import read_csv_pairs
from diffeat.errors import DiffeatError
from diffeat.extraction import load_source
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.report.transfer import found, marked, row
from diffeat.tasks import evaluate_pairs
from diffeat.tasks.propagation.own import carry
from diffeat.tasks.transfer import Annotation, read_annotation, transfer

SIZE = (128, 96)


def features(shift: tuple[int, int], gone: bool = False) -> FeatureMap:
    """Features of cells of 8 pixels that are told apart; the content moved by whole cells."""
    generator = torch.Generator().manual_seed(0)
    world = torch.randn(128, 30, 40, generator=generator)
    x, y = 10 - shift[0] // 8, 8 - shift[1] // 8
    cells = world[:, y : y + 12, x : x + 16].clone()
    if gone:
        cells = torch.randn(128, 12, 16, generator=generator)
    return FeatureMap({"a": cells}, FrameSpec("squash", size=SIZE).frame(SIZE), "a", "d", {"recipe_hash": "r"})


def test_points_boxes_and_masks_move_with_the_content() -> None:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[24:64, 32:80] = 3
    annotation = Annotation({"eye": (60.0, 40.0)}, {"head": (31.5, 23.5, 79.5, 63.5)}, mask)
    result = transfer(features((0, 0)), features((16, -8)), annotation)
    eye, head = result.points["eye"], result.boxes["head"]
    assert eye.at == pytest.approx((76, 32), abs=1)
    assert eye.mutual
    assert eye.confidence > 0.9
    assert head.at == pytest.approx((47.5, 15.5, 95.5, 55.5), abs=2)
    assert head.confidence > 0.8
    expected = np.zeros_like(mask)
    expected[16:56, 48:96] = 3
    assert result.mask is not None
    assert result.confidence is not None
    assert (result.mask == expected).mean() > 0.97
    assert result.confidence[24:48, 56:88].mean() > 0.8
    picture = Image.new("RGB", SIZE, (90, 90, 90))
    for drawing in (marked(picture, annotation), found(picture, result)):
        assert drawing.size == SIZE
        assert np.asarray(drawing).std() > 5
    assert json.loads(json.dumps(row("x", picture, result)))["labels"]["3"]["share"] > 0.1


def test_what_is_not_there_is_not_trusted() -> None:
    annotation = Annotation({str(k): (8.0 * k + 20, 40.0) for k in range(10)}, {"b": (31.5, 23.5, 79.5, 63.5)})
    there = transfer(features((0, 0)), features((8, 0)), annotation)
    gone = transfer(features((0, 0)), features((0, 0), gone=True), annotation)
    sure = [np.mean([p.confidence for p in result.points.values()]) for result in (there, gone)]
    assert sure[0] > 0.8 > 0.4 > sure[1]
    assert gone.boxes["b"].confidence < 0.2 < there.boxes["b"].confidence
    assert sum(p.mutual for p in gone.points.values()) < 10


def test_annotations_are_read_in_every_form(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    Image.new("RGB", SIZE).save(picture)
    assert read_annotation("1,2 3.5,4", picture).points == {"1": (1, 2), "2": (3.5, 4)}
    assert read_annotation("1,2,30,40", picture).boxes == {"1": (1, 2, 30, 40)}
    (tmp_path / "a.csv").write_text("name,x,y\neye,5,6\n")
    (tmp_path / "b.csv").write_text("name,left,top,right,bottom\nhead,5,6,7,8\n")
    (tmp_path / "c.json").write_text('{"points": {"eye": [5, 6]}, "boxes": {"head": [1, 2, 3, 4]}}')
    assert read_annotation(str(tmp_path / "a.csv"), picture).points == {"eye": (5, 6)}
    assert read_annotation(str(tmp_path / "b.csv"), picture).boxes == {"head": (5, 6, 7, 8)}
    assert read_annotation(str(tmp_path / "c.json"), picture).points == {"eye": (5, 6)}
    for name, values in (("m.png", None), ("m.npy", np.full(SIZE[::-1], 2))):
        if values is None:
            Image.fromarray(np.full(SIZE[::-1], 2, np.uint8)).save(tmp_path / name)
        else:
            np.save(tmp_path / name, values)
        mask = read_annotation(str(tmp_path / name), picture).mask
        assert mask is not None
        assert (mask == 2).all()


WRONG = {
    "nothing": ("eye", "marks nothing"),
    "no file": ("gone.csv", "no list of points"),
    "no mask": ("gone.png", "no mask"),
    "outside": ("500,2", "outside the picture"),
    "no area": ("30,20,30,40", "no area"),
    "other size": ("small.png", "8×8"),
    "empty": ("empty.png", "empty"),
    "no numbers": ("words.csv", "line 2"),
    "twice": ("twice.csv", "named twice"),
    "no json": ("no.json", "is no annotation"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_marks_are_told_in_a_line(name: str, tmp_path: Path) -> None:
    text, message = WRONG[name]
    Image.new("RGB", SIZE).save(tmp_path / "p.png")
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(np.zeros(SIZE[::-1], np.uint8)).save(tmp_path / "empty.png")
    (tmp_path / "words.csv").write_text("name,x,y\neye,five,6\n")
    (tmp_path / "twice.csv").write_text("name,x,y\neye,5,6\neye,7,8\n")
    (tmp_path / "no.json").write_text('{"points": [1, 2]}')
    given = str(tmp_path / text) if "." in text else text
    with pytest.raises(DiffeatError, match=message) as caught:
        read_annotation(given, tmp_path / "p.png").check(SIZE)
    assert "\n" not in str(caught.value)


def test_a_video_of_ones_own_is_carried_from_its_first_mask() -> None:
    rng = np.random.default_rng(0)
    world = rng.integers(0, 255, (64, 96, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    frames = [world[20:84, 20 + 4 * t : 84 + 4 * t] for t in range(4)]
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 24:48] = 2
    masks = list(carry(frames, mask, load_source("baseline:rgb")))
    assert len(masks) == 4
    assert (masks[0] == mask).all()
    expected = np.zeros_like(mask)
    expected[20:44, 12:36] = 2
    overlap = ((masks[3] == 2) & (expected == 2)).sum() / ((masks[3] == 2) | (expected == 2)).sum()
    assert overlap > 0.6


def test_pairs_without_boxes_have_a_protocol_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (64, 96, 3)).astype(np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(tmp_path / name)
    rows = ["source,target,source_x,source_y,target_x,target_y", "a.png,b.png,40,30,40,30", "a.png,b.png,60,20,60,20"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    result = evaluate_pairs(read_csv_pairs(tmp_path / "pairs.csv"), load_source("baseline:rgb"))
    assert result.value == 100
    assert "picture" in str(result)
