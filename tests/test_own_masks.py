"""A folder of one's own as strangers make it: every kind of mask is read right, or refused in one line by `check`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffeat.cli.main import main
from diffeat.datasets.registry import open_dataset
from mini_datasets import photo

SIZE = (12, 16)
LABELS = np.zeros(SIZE, np.uint8)
LABELS[2:8, 3:9], LABELS[9:11, 2:14] = 1, 2
TWO = np.uint8(255) * (LABELS == 1)
GREYS = np.array([0, 100, 200], np.uint8)[LABELS]


def masks(values: np.ndarray, ending: str = ".png", **options: Any) -> Callable[[Path], None]:
    """Writes them for every picture."""

    def write(root: Path) -> None:
        for picture in (root / "images").iterdir():
            file = root / "masks" / f"{picture.stem}{ending}"
            if ending.endswith(".npy"):
                np.save(file, values)
            else:
                Image.fromarray(values).save(file, **options)

    return write


def with_alpha(colours: np.ndarray) -> np.ndarray:
    return np.dstack([np.broadcast_to(colours, (*SIZE, 3)), TWO]).astype(np.uint8)


def palette(root: Path) -> None:
    for picture in (root / "images").iterdir():
        mask = Image.fromarray(np.array([0, 7, 200], np.uint8)[LABELS], "P")
        mask.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
        mask.save(root / "masks" / picture.name)


#: How masks are written, the list of classes, what is said on the command line, and the labels that are read.
READ: dict[str, tuple[Callable[[Path], None], str, list[str], np.ndarray]] = {
    "a palette with gaps": (palette, "", [], LABELS),
    "16 bits": (masks(np.array([0, 1000, 40000], np.uint16)[LABELS]), "0 a\n1000 b\n40000 c", [], LABELS),
    "floats": (masks(LABELS.astype(float), ".npy"), "", [], LABELS),
    "truth values": (masks(LABELS == 1, ".npy"), "", [], (LABELS == 1).astype(np.uint8)),
    "a suffix": (masks(LABELS, "_mask.png"), "a\nb\nc", [], LABELS),
    "TIFF": (masks(LABELS, ".tif"), "a\nb\nc", [], LABELS),
    "WebP without loss": (masks(LABELS, ".webp", lossless=True), "", [], LABELS),
    "alpha": (masks(with_alpha(np.full(3, 90))), "", [], (LABELS == 1).astype(np.uint8)),
    "alpha, named": (masks(with_alpha(np.zeros(3))), "ground\nthing", [], (LABELS == 1).astype(np.uint8)),
    "void by name": (masks(LABELS), "a\nb\nc", ["--void", "c"], np.where(LABELS == 2, 255, LABELS)),
    "negative void": (masks(LABELS.astype(int) - 1, ".npy"), "", ["--void", "-1"],
                      np.where(LABELS == 0, 255, LABELS - 1)),
    "a class that never occurs": (masks(LABELS), "a\nb\nc\nd", [], LABELS),
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k in range(6):
        photo(tmp_path / "images" / f"p{k}.png", LABELS)
    (tmp_path / "masks").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", READ)
def test_masks_that_are_understood(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, classes, said, labels = READ[name]
    write(root)
    if classes:
        (root / "classes.txt").write_text(classes)
    main(["check", "folder", "--root", str(root), *said])
    data = open_dataset("folder", root, "train", kind="label maps", void=said[1] if said else None)
    assert np.array_equal(data[0].labels(len(data.classes)), labels)
    told = capsys.readouterr()
    assert "train: 4 pictures, 16×12" in told.out
    assert told.err.count("no picture shows d") == (name == "a class that never occurs")


def smoothed(root: Path) -> None:
    for picture in (root / "images").iterdir():
        small = Image.fromarray(TWO).resize((8, 6), Image.Resampling.BILINEAR)
        small.resize((16, 12), Image.Resampling.BILINEAR).save(root / "masks" / picture.name)


def turned(root: Path) -> None:
    """Square pictures with a tag: nothing tells whether masks are of the stored or of the turned pixels."""
    tag = Image.Exif()
    tag[0x112] = 6
    for picture in list((root / "images").iterdir()):
        Image.open(picture).crop((0, 0, 12, 12)).save(picture.with_suffix(".jpg"), exif=tag)
        picture.unlink()
    masks(LABELS[:, :12])(root)


def damaged(root: Path) -> None:
    masks(LABELS)(root)
    file = root / "images" / "p3.png"
    file.write_bytes(file.read_bytes()[:-40])


def without(part: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        masks(LABELS)(root)
        (root / part / "p2.png").unlink()

    return write


def called_the_same(root: Path) -> None:
    masks(LABELS)(root)
    Image.open(root / "images" / "p1.png").save(root / "images" / "p1.jpg")


def listed(root: Path) -> None:
    masks(LABELS)(root)
    (root / "train.txt").write_text("p0\n")
    (root / "val.txt").write_text("\n")


#: How masks are written, the list of classes, and what the one line says.
REFUSED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "JPEG": (masks(LABELS, ".jpg"), "", "is saved with loss (JPEG)"),
    "JPEG of 0 and 255": (masks(TWO, ".jpg", quality=100), "", "draw or export it anew as PNG"),
    "JPEG with classes": (masks(GREYS, ".jpg"), "0 a\n100 b\n200 c", "6 of 6 pictures of folder cannot be used"),
    "WebP with loss": (masks(LABELS, ".webp", quality=50), "", "is saved with loss (WEBP)"),
    "smoothed": (smoothed, "", "never fill 2×2 pixels"),
    "300 classes": (masks(LABELS), "\n".join(f"c{k}" for k in range(300)), "255 at most are classes"),
    "classes twice": (masks(LABELS), "a\nb\nb", "has the name 'b' twice"),
    "fewer names": (masks(LABELS), "a\nb", "6 of 6 pictures of folder cannot be used"),
    "one hot": (masks(np.eye(3)[LABELS], ".npy"), "", "whole numbers (rows, columns) are wanted"),
    "below 0": (masks(LABELS.astype(int) - 1, ".npy"), "", "The masks hold -1; labels are 0 or more"),
    "all void": (masks(np.full(SIZE, 255, np.uint8)), "a\nb", "void at every pixel"),
    "all void, no list": (masks(np.full(SIZE, 255, np.uint8)), "", "nothing but void"),
    "a damaged picture": (damaged, "", "1 of 6 pictures of folder cannot be used"),
    "turned squares": (turned, "", "6 of 6 pictures of folder cannot be used"),
    "no picture": (without("images"), "", "1 of 6 masks"),
    "the same name": (called_the_same, "", "Two pictures are called the same"),
    "an empty list": (listed, "", "val.txt names no picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_masks_that_are_refused_in_one_line(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, classes, message = REFUSED[name]
    write(root)
    if classes:
        (root / "classes.txt").write_text(classes)
    with pytest.raises(SystemExit) as caught:
        main(["check", "folder", "--root", str(root)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_picture_without_a_mask_is_left_out_and_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without("masks")(root)
    main(["check", "folder", "--root", str(root)])
    assert capsys.readouterr().out.count("1 pictures without a mask are left out: p2.png") == 1


def test_a_head_learns_with_the_options_that_the_data_were_checked_with(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks(LABELS)(root)
    data = ["folder", "--root", str(root), "-r", "baseline:rgb", "--out", str(tmp_path / "run")]
    said = ["--classes", str(root / "names"), "--void", "c"]
    (root / "names").write_text("a\nb\nc")
    quick = ["--steps", "1", "--batch", "2", "--variants", "1"]
    main(["train", "segmentation", *data, *said, *quick])
    assert "Classes (2): a, b." in (tmp_path / "run" / "README.md").read_text()
    main(["train", "probe", *data, *said, "--force"])
    assert "Classes (2): a, b." in (tmp_path / "run" / "README.md").read_text()
    for name in ("p2", "p3", "p4", "p5"):  # two pictures are left
        (root / "images" / f"{name}.png").unlink()
        (root / "masks" / f"{name}.png").unlink()
    data[-1] = str(tmp_path / "other")
    with pytest.raises(SystemExit):
        main(["train", "segmentation", *data, *quick])
    assert "--validation '' trains without" in capsys.readouterr().err
    main(["train", "segmentation", *data, *quick, "--validation", ""])
