"""Label maps, depth and normals: what is written in the layouts of real datasets is read back."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mini_datasets as mini
from diffeat.cli.main import main
from diffeat.datasets.class_lists import read_class_list
from diffeat.datasets.class_names import ADE20K, CITYSCAPES, COCO_STUFF, CONTEXT, VOC
from diffeat.datasets.coding import IGNORE, Coding
from diffeat.datasets.labelled import MaskDataset, MaskSample
from diffeat.datasets.measured import TargetSample
from diffeat.datasets.registry import open_dataset
from diffeat.errors import DatasetError, DiffeatError, InvalidValueError
from diffeat.geometry.orientation import upright_array
from stand_ins import CITYSCAPES_RAW, COCO_RAW, STAND_INS


def assert_true(data: MaskDataset) -> None:
    """The labels are those that the pictures were drawn of, as bytes."""
    assert len(data) >= 2
    for k, sample in enumerate(data):
        labels = sample.labels(len(data.classes))
        assert labels.dtype == np.uint8
        assert (labels == mini.truth(k, len(data.classes))).all(), sample.mask


def test_the_lists_of_classes_are_whole() -> None:
    assert [len(names) for names in (ADE20K, CITYSCAPES, VOC, CONTEXT, COCO_STUFF)] == [150, 19, 21, 59, 171]
    for names in (ADE20K, VOC, CONTEXT, COCO_STUFF):
        assert len(set(names)) == len(names)
    assert (ADE20K[0], ADE20K[12], ADE20K[149]) == ("wall", "person", "flag")
    assert (COCO_STUFF[79], COCO_STUFF[80], COCO_STUFF[170]) == ("toothbrush", "banner", "wood")


@pytest.mark.parametrize("split", ["train", "val"])
def test_public_layouts(tmp_path: Path, split: str) -> None:
    for name in ("ade20k", "cityscapes", "voc", "pascal-context", "coco-stuff", "camvid"):
        root = STAND_INS[name](tmp_path / name)
        assert_true(open_dataset(name, root, split, kind="label maps"))
    assert_true(open_dataset("ade20k", tmp_path / "ade20k" / "ADEChallengeData2016", split, kind="label maps"))
    whole = open_dataset("ade20k", mini.ade20k_full(tmp_path / "whole", ADE20K), split, kind="label maps")
    assert_true(whole)
    assert pickle.loads(pickle.dumps(whole)) == whole
    raw = mini.cityscapes(tmp_path / "raw", CITYSCAPES_RAW, train_ids=False)
    assert_true(open_dataset("cityscapes", raw, split, kind="label maps"))
    assert_true(open_dataset("pascal-context", mini.context_mat(tmp_path / "mat", CONTEXT), split, kind="label maps"))
    ids = mini.coco_stuff(tmp_path / "ids", COCO_RAW, train_ids=True)
    assert_true(open_dataset("coco-stuff", ids, split, kind="label maps"))
    assert_true(open_dataset("coco-stuff", mini.coco_stuff_10k(tmp_path / "10k", COCO_RAW), split, kind="label maps"))


def test_a_mask_without_its_picture_and_a_foreign_label_are_named(tmp_path: Path) -> None:
    root = mini.ade20k(tmp_path)
    mask = root / "ADEChallengeData2016" / "annotations" / "validation" / "ADE_val_00000001.png"
    mini.save(mask, np.full((32, 48), 151))
    data = open_dataset("ade20k", root, kind="label maps")
    with pytest.raises(DatasetError, match=r"00000001\.png holds label 151 at 1536 pixels, .*150 classes .*1 to 150"):
        data[1].labels(150)
    data[0].image.unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 label maps in .* have no picture, the first would be .*00000000"):
        open_dataset("ade20k", root)


# --- one's own folder ----------------------------------------------------------------------------

NAMES = ("wall", "floor", "door")
COLOURS = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0]], np.uint8)


def coloured(labels: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[:3] = COLOURS
    return table[labels]


@pytest.mark.parametrize(
    "kind", ["grey", "palette", "npy", "16 bit", "rgb", "rgba", "palette by colour", "split folders"]
)
def test_masks_of_every_kind(tmp_path: Path, kind: str) -> None:
    root = mini.folder(tmp_path, NAMES, 6)
    spelled = "".join(f"{n} {' '.join(map(str, c))}\n" for n, c in zip(NAMES, COLOURS, strict=True))
    (root / "classes.txt").write_text(spelled + "void,0,0,0\n")
    for k in range(6):
        labels, file = mini.truth(k, 3), root / "masks" / f"room {k:02d}.png"
        if kind == "palette":
            mini.save(file, labels, palette=True)
        elif kind == "npy":
            file.unlink()
            np.save(file.with_suffix(".npy"), labels.astype(np.int32))
        elif kind == "16 bit":
            Image.fromarray(labels.astype(np.uint16)).save(file)
        elif kind in ("rgb", "rgba"):
            Image.fromarray(coloured(labels)).convert(kind.upper()).save(file)
        elif kind == "palette by colour":  # in another order than that of the classes
            Image.fromarray(coloured(labels)).quantize(8).save(file)
        elif kind == "split folders":
            for part in ("images", "masks"):
                (root / part / ("train" if k < 4 else "test")).mkdir(exist_ok=True)
                old = next((root / part).glob(f"room {k:02d}.*"))
                old.rename(old.parent / ("train" if k < 4 else "test") / old.name)
    seen = []
    for split in ("train", "val", "test"):
        data = open_dataset("folder", root, split, kind="label maps")
        assert data.classes == NAMES
        assert data.colours == tuple(tuple(c) for c in COLOURS.tolist())
        for sample in data:
            seen.append(int(sample.image.stem[-2:]))
            assert (sample.labels(3) == mini.truth(seen[-1], 3)).all()
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]


def test_classes_that_nobody_named_are_found(tmp_path: Path) -> None:
    root = mini.folder(tmp_path, NAMES, 6)
    (root / "classes.txt").unlink()
    data = open_dataset("folder", root, "train", kind="label maps")
    assert data.classes == ("class 0", "class 1", "class 2")
    assert (data[0].labels(3) == mini.truth(0, 3)).all()
    for k in range(6):
        mini.save(root / "masks" / f"room {k:02d}.png", np.where(mini.truth(k, 3) == 1, 255, 0))
    data = open_dataset("folder", root, "train", kind="label maps")
    assert data.classes == ("background", "object")
    assert (data[0].labels(2) == (mini.truth(0, 3) == 1)).all()
    (root / "classes.txt").write_text("no\nyes\n")
    assert (open_dataset("folder", root, "train", kind="label maps")[0].labels(2) == (mini.truth(0, 3) == 1)).all()
    (root / "classes.txt").unlink()
    for k in range(6):
        Image.fromarray(coloured(mini.truth(k, 3))).save(root / "masks" / f"room {k:02d}.png")
    data = open_dataset("folder", root, "train", kind="label maps", void="#000000")
    assert data.classes == ("#00c800", "#0a141e", "#c80000")
    assert (data[0].labels(3) == np.array([1, 2, 0, *[0] * 252, 255])[mini.truth(0, 3)]).all()


def test_void_is_what_is_said(tmp_path: Path) -> None:
    root = mini.folder(tmp_path, NAMES, 6)
    for void, expected in (("0", [255, 0, 1]), ("door", [0, 1, 255]), ("wall, 2", [255, 0, 255])):
        data = open_dataset("folder", root, "train", kind="label maps", void=f"{void},255")
        assert len(data.classes) == 3 - expected.count(255)
        labels = data[0].labels(len(data.classes))
        assert (labels == np.array([*expected, *[0] * 252, 255])[mini.truth(0, 3)]).all()
    with pytest.raises(InvalidValueError, match="'dor', which is no number.*door"):
        open_dataset("folder", root, "train", void="dor")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb c\n", [(0, "a", None), (1, "b c", None)]),
        ("1 a\n7: b c\n", [(1, "a", None), (7, "b c", None)]),
        ("name,r,g,b\na,1,2,3\nb c,4,5,6\n", [(0, "a", (1, 2, 3)), (1, "b c", (4, 5, 6))]),
        ("64 128 64\ta\n192 0 128\tb c\n", [(0, "a", (64, 128, 64)), (1, "b c", (192, 0, 128))]),
        ("#0102ff a\n", [(0, "a", (1, 2, 255))]),
    ],
)
def test_lists_of_classes(tmp_path: Path, text: str, expected: list) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(text)
    known = read_class_list(file)
    assert known.names == tuple(name for _, name, _ in expected)
    assert known.coding.numbers == tuple((number, k) for k, (number, _, _) in enumerate(expected))
    assert known.coding.colours == tuple((c, k) for k, (_, _, c) in enumerate(expected) if c)
    (tmp_path / "id2label.json").write_text(json.dumps({str(n): name for n, name, _ in expected}))
    assert read_class_list(tmp_path / "id2label.json").names == known.names


def test_what_is_wrong_with_a_folder_is_told_in_one_line(tmp_path: Path) -> None:
    def read() -> None:
        for sample in open_dataset("folder", root, "train"):
            sample.labels(3)

    def message() -> str:
        with pytest.raises(DiffeatError) as error:
            read()
        return str(error.value)

    root = mini.folder(tmp_path / "a", NAMES, 6)
    mini.save(root / "masks" / "attic.png", mini.truth(0, 3))
    assert "1 of 7 masks" in message()
    assert "attic.png" in message()
    (root / "masks" / "attic.png").unlink()
    mini.save(root / "masks" / "room 00.png", np.full((32, 48), 9))
    assert (
        "holds label 9 at 1536 pixels, which is none of the 3 classes (numbers 0 to 2; 255 does not count)" in message()
    )
    mini.save(root / "masks" / "room 00.png", np.full((32, 48, 3), [1, 2, 3]))
    assert "holds colour 1 2 3" in message()
    mini.save(root / "masks" / "room 00.png", np.zeros((31, 48)))
    assert "labels 48×31 pixels, but" in message()
    mini.save(root / "masks" / "room 00.png", mini.truth(0, 3))
    (root / "masks" / "room 01.png").unlink()
    assert "1 pictures without a mask are left out: room 01.jpg" in open_dataset("folder", root, "train").notes
    (root / "classes.txt").write_text("wall\nwall\n")
    assert "has the name 'wall' twice" in message()
    one = mini.folder(tmp_path / "one", NAMES, 1)
    with pytest.raises(DatasetError, match="holds 1 pictures that are labelled, which leaves none for the test part"):
        open_dataset("folder", one, "test")
    (tmp_path / "none" / "images").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no folder of masks"):
        open_dataset("folder", tmp_path / "none", "train")
    noise = np.random.default_rng(0).integers(0, 255, (32, 48, 3))
    mini.save(one / "masks" / "room 00.png", noise)
    (one / "classes.txt").unlink()
    with pytest.raises(DatasetError, match="more than 255 colours: they are no label maps"):
        open_dataset("folder", one, "train")


@pytest.mark.parametrize(
    ("image", "mask"), [("7.jpg", "7_mask.png"), ("img_7.jpg", "mask_7.png"), ("7_rgb.png", "7.png")]
)
def test_names_that_belong_together(tmp_path: Path, image: str, mask: str) -> None:
    mini.photo(tmp_path / "images" / image, mini.truth(0, 3))
    mini.save(tmp_path / "masks" / mask, mini.truth(0, 3))
    assert [s.mask.name for s in open_dataset("folder", tmp_path, "train", kind="label maps")] == [mask]


def test_more_classes_than_bytes_are_refused() -> None:
    with pytest.raises(DatasetError, match="300 classes"):
        MaskDataset("x", "train", (), tuple(map(str, range(300))))


def test_labels_of_a_file_are_bytes_and_void_wins() -> None:
    coding = Coding(((7, 0), (8, 1)), void=(3, IGNORE))
    assert coding.labels(np.array([[7, 8, 3, 255, 9]], np.uint8)).tolist() == [[0, 1, 255, 255, -1]]


# --- depth and normals ---------------------------------------------------------------------------


def test_depth_and_normals_of_files(tmp_path: Path) -> None:
    depth = open_dataset("folder-depth", mini.measured(tmp_path / "d", "depth"), "train", kind="depth")
    values = depth[0].target()
    assert np.isnan(values[0, 0])
    np.testing.assert_allclose(values.ravel()[1:], np.arange(1, 32 * 48) / 1000, rtol=1e-6)
    scaled = open_dataset("folder-depth", tmp_path / "d", "train", kind="depth", scale="500")
    np.testing.assert_allclose(scaled[0].target(), 2 * values)
    with pytest.raises(InvalidValueError, match="positive number"):
        open_dataset("folder-depth", tmp_path / "d", "train", scale="-1")
    normals = open_dataset("folder-normals", mini.measured(tmp_path / "n", "normals"), "train", kind="normals")
    np.testing.assert_allclose(normals[0].target(), mini.unit_normals(0).transpose(2, 0, 1), atol=1e-6)
    encoded = np.round((mini.unit_normals(0) + 1) * 127.5)
    encoded[0, 0] = 127.5
    mini.save(tmp_path / "n.png", encoded)
    read = TargetSample(normals[0].image, tmp_path / "n.png", "normals").target()
    assert np.isnan(read[:, 0, 0]).all()
    cosine = (read * mini.unit_normals(0).transpose(2, 0, 1)).sum(0)
    assert np.nanmin(cosine) > 0.9999


def test_nyu_layouts(tmp_path: Path) -> None:
    official = open_dataset("nyuv2-depth", mini.nyuv2(tmp_path / "a"), "test", kind="depth")
    np.testing.assert_allclose(official[1].target().ravel()[:3], [0.001, 0.011, 0.021], rtol=1e-6)
    tasks = mini.nyuv2_tasks(tmp_path / "b")
    assert (open_dataset("nyuv2-depth", tasks, "test", kind="depth")[1].target() == 3.5).all()
    assert open_dataset("nyuv2-normals", tasks, "train", kind="normals")[0].target().shape == (3, 32, 48)
    base = tmp_path / "c" / "data"
    mini.photo(base / "nyu2_train" / "den" / "1.jpg", mini.truth(0, 3))
    mini.save(base / "nyu2_train" / "den" / "1.png", np.full((32, 48), 51))
    (base / "nyu2_train.csv").write_text("data/nyu2_train/den/1.jpg,data/nyu2_train/den/1.png\n")
    np.testing.assert_allclose(open_dataset("nyuv2-depth", tmp_path / "c", "train", kind="depth")[0].target(), 2.0)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_normals_turn_with_their_picture(tmp_path: Path, orientation: int) -> None:
    """The gradient of a ramp, as normals: after turning it is the gradient of the turned ramp."""
    y, x = np.mgrid[:20, :30].astype(np.float32)
    ramp = 2 * x - y
    flat = np.stack([np.full_like(ramp, 2), np.full_like(ramp, -1), np.zeros_like(ramp)], -1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png", exif=exif)
    np.save(tmp_path / "n.npy", flat)
    normals = TargetSample(tmp_path / "a.png", tmp_path / "n.npy", "normals").target()
    turned = upright_array(ramp, orientation)
    gradient = np.stack([np.gradient(turned, axis=1), np.gradient(turned, axis=0)])
    np.testing.assert_allclose(normals[:2], gradient / np.sqrt(5), atol=1e-6)


# --- diffeat check -------------------------------------------------------------------------------


def test_check_says_what_there_is_and_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = mini.folder(tmp_path / "rooms", (*NAMES, "roof"), 12)
    (root / "classes.txt").write_text("wall\nfloor\ndoor\nroof\nstair\n")
    main(["check", "folder", "--root", str(root), "--out", str(tmp_path / "s.png")])
    said = capsys.readouterr()
    assert "train: 8 pictures, 48×32, 97.9 % of pixels known" in said.out
    assert "no picture shows stair" in said.err
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width > 3 * 240
    mini.save(root / "masks" / "room 00.png", np.full((32, 48), 9))
    mini.save(root / "masks" / "room 01.png", np.full((32, 48), 255))
    (root / "images" / "room 03.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        main(["check", "folder", "--root", str(root)])
    said = capsys.readouterr().err
    assert "Fault: " in said
    assert "holds label 9" in said
    assert "room 03.jpg" in said
    assert "1 pictures have no known pixel" in said
    assert "Error: 2 of 12 pictures of folder cannot be used." in said
    with pytest.raises(SystemExit):
        main(["check", "spair", "--root", str(root)])
    assert "Label maps, depth and normals can be checked; spair holds pairs." in capsys.readouterr().err


def test_check_of_depth_tells_its_span(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "folder-depth", "--root", str(mini.measured(tmp_path, "depth")), "--out", str(tmp_path / "s.jpg")])
    assert "train: 8 pictures, 48×32, 100.0 % of pixels known, depth 0.001 to 1.54" in capsys.readouterr().out


def test_a_sample_of_plain_numbers_is_as_before(tmp_path: Path) -> None:
    mini.photo(tmp_path / "a.png", mini.truth(0, 3))
    np.save(tmp_path / "a.npy", mini.truth(0, 3).astype(np.int64))
    assert (MaskSample(tmp_path / "a.png", tmp_path / "a.npy").labels(3) == mini.truth(0, 3)).all()
