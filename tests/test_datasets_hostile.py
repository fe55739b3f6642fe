"""Datasets that are damaged or meant ill, and photographs that an EXIF tag turns against their annotations."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffeat.datasets.davis import read_davis, read_mask
from diffeat.datasets.labelled import MaskSample
from diffeat.datasets.pairs import PairDataset, inside
from diffeat.datasets.registry import DATASETS, open_dataset
from diffeat.errors import DatasetError, DiffeatError
from diffeat.geometry import open_image
from diffeat.geometry.files import IMAGE_SUFFIXES
from stand_ins import STAND_INS, picture

# --- every reader --------------------------------------------------------------------------------


def damaged(data: bytes) -> dict[str, bytes]:
    """Ways in which the bytes of a list or table can be wrong."""
    number = next((w for w in data.decode("latin1").replace(",", " ").split() if w.strip("[]").isdigit()), "1").encode()
    return {
        "empty": b"",
        "not UTF-8": b"\xff\xfe" + data,
        "zero bytes": b"\0" * 40,
        "cut": data[: len(data) // 2],
        "NaN": data.replace(number, b"NaN"),
        "huge": data.replace(number, b"1e999"),
        "words": data.replace(number, b"two"),
        "nested": b"[" * 2000,
        "list": b"[]",
        "outside": data.replace(b"/", b"/../../../../../").replace(b".jpg", b"/../../../../../etc/passwd"),
        "long": data.replace(b".", b"." + b"x" * 5000),
        "one line": b" ".join(data.split()),
    }


@pytest.mark.parametrize("card", DATASETS.values(), ids=lambda c: c.name)
def test_whatever_its_files_hold_a_reader_reads_or_says_in_one_line_what_is_wrong(card, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    root = STAND_INS[card.name](tmp_path / "data")
    if not root.is_relative_to(tmp_path):
        root = Path(shutil.copytree(root, tmp_path / "copy"))
    inner = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    files = [p for p in inner if p.suffix not in IMAGE_SUFFIXES]
    by_kind = {(p.suffix, str(p.parent.parent.name)): p for p in files}  # one of each
    read = 0
    for file in by_kind.values():
        whole = file.read_bytes()
        for what, data in damaged(whole).items():
            file.write_bytes(data)
            read += _read(card.name, root, f"{file.name} {what}")
        file.unlink()
        os.mkfifo(file)
        _read(card.name, root, f"{file.name} pipe")
        file.unlink()
        file.write_bytes(whole)
    assert _read(card.name, root, "whole") == 1


def _read(name: str, root: Path, what: str) -> int:
    try:
        data = open_dataset(name, root)
        for sample in data:
            if hasattr(sample, "labels"):
                sample.labels(256)
            if hasattr(sample, "first_mask"):
                assert sample.first_mask.ndim == 2
            if isinstance(data, PairDataset):
                assert np.isfinite(np.array([sample.source_points, sample.target_points])).all(), what
                assert sample.source.resolve().is_relative_to((root if root.is_dir() else root.parent).resolve()), what
    except DiffeatError as error:
        assert str(error).isprintable(), what  # noqa: PT017
        assert len(str(error)) < 1500, what  # noqa: PT017
        return 0
    return 1


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/etc/passwd"])
def test_names_that_lead_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="does not lie in"):
        inside(tmp_path / "data", name)


def test_names_that_stay_inside(tmp_path: Path) -> None:
    assert (
        inside(tmp_path, "a/../b/c.png") == inside(tmp_path, str(tmp_path / "b" / "c.png")) == tmp_path / "b" / "c.png"
    )


def test_messages_name_the_row(tmp_path: Path) -> None:
    file = STAND_INS["csv"](tmp_path)
    head = "source,target,source_x,source_y,target_x,target_y\n"
    for row, message in (
        ("a.png,b.png,1,nan,3,4", r"line 3: source_y is 'nan', which is not a number of pixels"),
        ("a.png,b.png,1,1,3", "line 3, has 5 cells"),
    ):
        file.write_text(f"{head}a.png,a.png,1,1,1,1\n{row}\n")
        with pytest.raises(DatasetError, match=message):
            open_dataset("csv", file)
    listed = STAND_INS["spair-json"](tmp_path)
    rows = json.loads(listed.read_text())
    rows[1]["source_points"][0][0] = float("inf")
    listed.write_text(json.dumps(rows))
    with pytest.raises(DatasetError, match=r"pair 2 \(ValueError: inf is no pixel"):
        open_dataset("spair-json", listed)


# --- turned photographs --------------------------------------------------------------------------

STORED = np.arange(30 * 20 * 3, dtype=np.uint16).reshape(20, 30, 3).astype(np.uint8)


def photograph(path: Path, orientation: int, pixels: np.ndarray = STORED) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(5, 9))
def test_label_maps_of_the_stored_or_of_the_upright_picture_are_understood(tmp_path: Path, orientation: int) -> None:
    image = photograph(tmp_path / "a.png", orientation)
    stored, upright = STORED[..., 0], np.asarray(open_image(image))[..., 0]
    for values in (stored, upright):
        np.save(tmp_path / "a.npy", values)
        labels = MaskSample(image, tmp_path / "a.npy").labels(256)
        assert (labels == upright).all()
        assert labels.flags.c_contiguous


@pytest.mark.parametrize(("orientation", "size"), [(3, (20, 30)), (2, (20, 30)), (6, (20, 20)), (8, (5, 5))])
def test_what_the_sizes_cannot_tell_is_an_error_that_says_what_to_do(tmp_path: Path, orientation: int, size) -> None:
    image = photograph(tmp_path / "a.png", orientation, np.zeros((*size, 3), np.uint8))
    np.save(tmp_path / "a.npy", np.zeros(size, int))
    with pytest.raises(DatasetError, match=r"a\.npy, the label map of .*a\.png: an EXIF tag turns.*exif_transpose"):
        MaskSample(image, tmp_path / "a.npy").labels(3)
    Image.fromarray(np.asarray(open_image(image))).save(image)  # as the message says
    assert MaskSample(image, tmp_path / "a.npy").labels(3).shape == np.asarray(open_image(image)).shape[:2]


def test_a_map_of_another_size_names_both_files(tmp_path: Path) -> None:
    image = photograph(tmp_path / "a.png", 6)
    np.save(tmp_path / "a.npy", np.zeros((7, 9), int))
    with pytest.raises(DatasetError, match=r"a\.npy labels 9×7 pixels, but .*a\.png has 30×20"):
        MaskSample(image, tmp_path / "a.npy").labels(3)


def value_at(path: Path, point: tuple[float, float]) -> int:
    x, y = point
    return int(np.asarray(open_image(path))[int(y), int(x), 0])


@pytest.mark.parametrize("orientation", range(5, 9))
def test_points_of_stored_and_of_upright_pixels_become_the_same(tmp_path: Path, orientation: int) -> None:
    turned, plain = photograph(tmp_path / "a.png", orientation), picture(tmp_path / "b.png")
    points = [(0, 0), (29, 0), (4, 17)]
    head = "source,target,source_x,source_y,target_x,target_y,source_width,source_height,left,top,right,bottom\n"
    rows = "".join(f"a.png,b.png,{x},{y},{x},{y},30,20,1,2,3,5\n" for x, y in points)
    (tmp_path / "l.csv").write_text(head + rows)
    (pair,) = open_dataset("csv", tmp_path / "l.csv")
    assert pair.source_size == open_image(turned).size == (20, 30)
    assert [value_at(turned, p) for p in pair.source_points] == [STORED[y, x, 0] for x, y in points]
    assert pair.target_points == tuple(points)
    assert pair.target_box == (1, 2, 3, 5)
    # the other way round: the turned picture is the target, and its box turns with it
    rows = "".join(f"b.png,a.png,1,1,{x},{y},30,20,1,2,3,5\n" for x, y in points)
    (tmp_path / "m.csv").write_text(head.replace("source_w", "target_w").replace("source_h", "target_h") + rows)
    (pair,) = open_dataset("csv", tmp_path / "m.csv")
    left, top, right, bottom = pair.target_box
    seen = np.asarray(open_image(turned))[int(top) : int(bottom) + 1, int(left) : int(right) + 1, 0]
    assert sorted(seen.ravel()) == sorted(STORED[2:6, 1:4, 0].ravel())
    # given on the upright picture they stay
    rows = "".join(f"a.png,b.png,{y},{x},1,1,20,30,,,,\n" for x, y in points)
    (tmp_path / "u.csv").write_text(head + rows)
    (pair,) = open_dataset("csv", tmp_path / "u.csv")
    assert pair.source_points == tuple((y, x) for x, y in points)
    # without sizes nobody can know
    rows = "a.png,b.png,1,1,1,1\n"
    (tmp_path / "n.csv").write_text(head.split(",source_w")[0] + "\n" + rows)
    with pytest.raises(DatasetError, match=r"a\.png of pair 'a-b': an EXIF tag turns the picture"):
        open_dataset("csv", tmp_path / "n.csv")
    assert plain.exists()


def test_spair_and_ap10k_say_their_sizes(tmp_path: Path) -> None:
    root = STAND_INS["ap10k"](tmp_path)
    for path in root.rglob("*.jpg"):
        with Image.open(path) as image:
            photograph(path, 6, np.asarray(image))
    for path in (root / "ImageAnnotation").rglob("*.json"):
        data = json.loads(path.read_text())
        path.write_text(json.dumps({**data, "width": 40, "height": 30}))
    before = json.loads(next((root / "ImageAnnotation").rglob("*.json")).read_text())["keypoints"][:2]
    pair = open_dataset("ap10k", root)[0]
    assert pair.source_size == (30, 40)
    assert (30 - 1 - before[1], before[0]) in (*pair.source_points, *pair.target_points) or before[0] > 40


# --- DAVIS ---------------------------------------------------------------------------------------


def davis(root: Path, mask: np.ndarray, name: str = "bear", orientation: int = 1, mode: str | None = None) -> Path:
    for k in range(3):
        frame = root / "JPEGImages" / "480p" / name / f"{k:05d}.jpg"
        photograph(frame, orientation)
        file = root / "Annotations" / "480p" / name / f"{k:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(mask)
        (image.convert(mode) if mode else image).save(file)
    return root


@pytest.mark.parametrize("mode", [None, "RGB", "1"])
def test_davis_2016_as_it_is_published(tmp_path: Path, mode: str | None) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 10:20] = 255
    root = davis(davis(tmp_path, mask, "bear", mode=mode), mask, "bus", mode=mode)
    listing = root / "ImageSets" / "480p" / "val.txt"
    listing.parent.mkdir(parents=True)
    lines = [
        f"/JPEGImages/480p/{n}/{k:05d}.jpg /Annotations/480p/{n}/{k:05d}.png" for n in ("bus", "bear") for k in range(3)
    ]
    listing.write_text("\n".join(lines) + "\n")
    data = open_dataset("davis", root, year="2016")
    assert [v.name for v in data] == ["bus", "bear"]
    assert (data[0].first_mask == mask // 255).all()
    assert read_davis(root).samples == data.samples
    (root / "JPEGImages" / "480p" / "bus" / "00001.jpg").unlink()
    with pytest.raises(DatasetError, match=r"lacks 1 frames, the first is 00001\.jpg|1 frames are missing"):
        read_davis(root)
    for line, message in (
        ("../../x/0.jpg", "line 1"),
        ("..", "does not lie in"),
        ("/JPEGImages/480p/../0.jpg", "not lie"),
    ):
        listing.write_text(line)
        with pytest.raises(DatasetError, match=message):
            read_davis(root)


def test_masks_fit_their_frames_or_name_them(tmp_path: Path) -> None:
    numbers = np.zeros((20, 30), np.uint8)
    numbers[0, 3] = 2
    root = davis(tmp_path, numbers, orientation=8)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("bear\n")
    video = read_davis(root)[0]
    assert video.first_mask.shape == (30, 20)
    assert np.argwhere(video.first_mask).tolist() == [[26, 0]]  # 8: (x, y) is seen at (y, W-1-x)
    Image.fromarray(numbers[:5]).save(video.masks[1])
    with pytest.raises(DatasetError, match=r"bear/00001\.png labels 30×5 pixels, but .*00001\.jpg has 30×20"):
        video.mask(1)
    Path(video.masks[1]).write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"A mask cannot be read\. .*00001\.png: not a picture"):
        read_mask(video.masks[1])
