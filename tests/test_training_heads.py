"""Training of dense heads: what is shown, what is kept, and that it ends in the same weights however it is stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.datasets import MaskDataset
from diffeat.datasets.labelled import IGNORE, MaskSample
from diffeat.datasets.measured import TargetDataset, TargetSample
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.extraction import Baseline, Joined, load_source
from diffeat.features import FeatureMap, Source
from diffeat.tasks.dense import DenseOptions
from diffeat.tasks.predictors.predictor import Predictor
from diffeat.tasks.predictors.scores import DepthScores, LabelScores, NormalScores
from diffeat.tasks.predictors.windows import Windows
from diffeat.tasks.segmentation.confusion import Confusion
from diffeat.training.heads.cuts import Cut, distorted, drawn
from diffeat.training.heads.prepare import windows_of
from diffeat.training.heads.train import train_dense
from diffeat.training.loop import read_log

RGB = Joined.from_dict({"name": "colours", "parts": (Baseline(), Baseline(stride=8)), "join": "apart"})
FAST: dict[str, Any] = {"steps": 6, "batch": 2, "every": 3, "variants": 2, "channels": 8}
LINEAR = {name: value for name, value in FAST.items() if name != "channels"}


@pytest.fixture(scope="module")
def source() -> Source[FeatureMap]:
    return load_source(RGB)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a bright square on dark ground, their masks, depth and normals."""
    place = tmp_path_factory.mktemp("squares")
    for k in range(4):
        rng = np.random.default_rng(k)
        y, x = rng.integers(4, 28, 2)
        mask = np.zeros((64, 80), np.uint8)
        mask[y : y + 30, x : x + 30] = 1
        mask[:2] = IGNORE
        pixels = np.where(mask[..., None] == 1, 220, 40) + rng.integers(0, 20, (64, 80, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{k}.png")
        Image.fromarray(mask).save(place / f"{k}_mask.png")
        np.save(place / f"{k}_depth.npy", np.where(mask == 1, 1.0, 4.0).astype(np.float32))
        normals = np.zeros((64, 80, 3), np.float32)
        normals[..., 2] = 1
        normals[mask == 1] = [0.6, 0, 0.8]
        np.save(place / f"{k}_normals.npy", normals)
    return place


def squares(folder: Path, *numbers: int, split: str = "train", classes: tuple[str, ...] = ("ground", "square")) -> Any:
    samples = tuple(MaskSample(folder / f"{k}.png", folder / f"{k}_mask.png") for k in numbers)
    return MaskDataset("squares", split, samples, classes)


def measured(folder: Path, quantity: Any, *numbers: int) -> TargetDataset:
    samples = tuple(TargetSample(folder / f"{k}.png", folder / f"{k}_{quantity}.npy", quantity) for k in numbers)
    return TargetDataset("squares", "train", samples, quantity)


# ---- pieces of pictures


def ramp(size: tuple[int, int]) -> Image.Image:
    """Every pixel tells its place: red is the column, green the row."""
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("box", [(0, 0, 40, 30), (7, 5, 20, 20), (-6, 12, 32, 32), (25, -3, 16, 40)])
@pytest.mark.parametrize("flip", [False, True])
def test_pieces_at_the_pictures_own_scale_are_its_pixels(box: Any, flip: bool) -> None:
    cut = Cut((40, 30), (40, 30), box, flip)
    picture = ramp((40, 30))
    places = np.asarray(picture).transpose(2, 0, 1)
    expected = np.zeros((3, box[3], box[2]), np.uint8)
    for row in range(box[3]):
        for column in range(box[2]):
            y, x = box[1] + row, box[0] + (box[2] - 1 - column if flip else column)
            if 0 <= y < 30 and 0 <= x < 40:
                expected[:, row, column] = places[:, y, x]
    assert np.array_equal(np.asarray(cut.image(picture)).transpose(2, 0, 1), expected)
    assert np.array_equal(cut.values(places, 0), expected)


def test_scaled_labels_lie_where_the_scaled_picture_does() -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[20:40, 30:60] = 1
    picture = Image.fromarray(np.repeat(mask[..., None] * 255, 3, 2))
    for seed in range(8):
        options = DenseOptions(crop=48, jitter=(0.5, 2.0))
        cut = drawn((90, 60), options, 48, np.random.default_rng(seed))
        labels = cut.values(mask, IGNORE)
        bright = np.asarray(cut.image(picture))[..., 0] > 127
        known = labels != IGNORE
        assert (bright[known] == labels[known]).mean() > 0.98
        assert set(np.unique(labels)) <= {0, 1, IGNORE}


def test_a_square_crop_is_of_the_shorter_side() -> None:
    cut = drawn((90, 60), DenseOptions(crop="square"), 30, np.random.default_rng(0))
    assert (cut.scaled, cut.box[2:], cut.box[1]) == ((45, 30), (30, 30), 0)


def test_a_class_fills_no_more_than_its_share_where_that_can_be() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 44:] = 1
    options = DenseOptions(crop=24, most=0.75)
    shares = []
    for seed in range(20):
        piece = drawn((64, 64), options, 24, np.random.default_rng(seed), labels).values(labels, IGNORE)
        shares.append(max(piece.mean(), 1 - piece.mean()))
    assert np.mean(np.array(shares) <= 0.75) > 0.6


def test_light_changes_colours_alone_and_the_same_in_every_run() -> None:
    picture = ramp((40, 30))
    assert any(np.any(np.asarray(distorted(picture, seed)) != np.asarray(picture)) for seed in range(4))
    assert np.array_equal(distorted(picture, 1), distorted(picture, 1))


# ---- scores


def test_scores_by_hand() -> None:
    truth = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
    guess = np.array([[0, 1, 1], [1, 0, 2]], np.uint8)
    scores = LabelScores.of(truth, guess, "abc")
    assert np.array_equal(scores.sums[0, :, :3], [[1, 2, 2], [2, 2, 3], [0, 1, 0]])
    assert scores.value == pytest.approx(100 * np.mean([1 / 3, 2 / 3, 0]))
    both = scores + scores
    assert (both.value, len(both.sums)) == (pytest.approx(scores.value), 2)
    confusion = Confusion(3)
    confusion.add(truth, guess)
    assert scores.value == pytest.approx(100 * confusion.miou)
    depth = DepthScores.of(np.array([[[1.0, 2.0, np.nan]]]), np.array([[1.1, 4.0, 9.0]]))
    assert depth.value == pytest.approx((0.1 + 1) / 2)
    assert {row[0]: row[1] for row in depth.table()[1]}["δ < 1.25"] == "50"
    up, right = np.array([0.0, 0, 1]), np.array([1.0, 0, 0])
    known = np.stack([up, up, np.full(3, np.nan)], axis=1)[:, None]
    normals = NormalScores.of(known, np.stack([up, right, up], axis=1)[:, None])
    assert normals.value == pytest.approx(45)
    assert normals.merit < 0


# ---- trainings


def trained(source: Any, folder: Path, out: Path, **options: Any) -> Any:
    settings = DenseOptions(**{**(LINEAR if options.get("head", "linear") == "linear" else FAST), **options})
    return train_dense(source, squares(folder, 0, 1, 2), out, settings, validation=squares(folder, 3, split="val"))


def weights(out: Path) -> bytes:
    return (out / "predictor.safetensors").read_bytes()


@pytest.mark.parametrize("options", [{"head": "linear"}, {"head": "fpn", "variants": 0, "crop": 48, "accumulate": 2},
                                     {"head": "upernet", "blocks": "constant", "precision": "bfloat16"}])  # fmt: skip
def test_a_head_is_trained_saved_loaded_and_predicts(options: Any, source: Any, folder: Path, tmp_path: Path) -> None:
    outcome = trained(source, folder, tmp_path / "run", steps=30, every=15, rate=0.02, **options)
    losses = outcome.losses
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert outcome.scores.value > 60
    loaded = Predictor.load(tmp_path / "run")
    (one,) = loaded.predict(folder / "3.png")
    (other,) = outcome.predictor.predict(folder / "3.png")
    assert one.values.shape == (64, 80)
    assert np.array_equal(one.values, other.values)
    truth = np.asarray(Image.open(folder / "3_mask.png"))
    assert LabelScores.of(truth, one.values, ("a", "b")).value == pytest.approx(outcome.scores.value)
    rows = read_log(tmp_path / "run" / "training" / "log.csv")
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses, rel=1e-5)
    assert "squares" in (tmp_path / "run" / "README.md").read_text()


class Killed(BaseException):
    pass


def killing(after: int) -> Any:
    left = [after]

    def progress(items: Iterable[Any], total: int | None = None, desc: str = "") -> Iterator[Any]:
        for item in items:
            if desc == "train" and left[0] == 0:
                raise Killed
            left[0] -= desc == "train"
            yield item

    return progress


ANEW = {"variants": 0, "photometric": True, "accumulate": 2, "precision": "bfloat16"}


@pytest.mark.parametrize("options", [{"head": "upernet", "blocks": "none"}, ANEW])
def test_a_training_killed_at_ten_random_moments_ends_in_the_same_weights(
    options: Any, source: Any, folder: Path, tmp_path: Path
) -> None:
    base = LINEAR if "head" not in options else FAST
    settings = DenseOptions(**{**base, "steps": 32, "every": 4, **options})
    data, held_out = squares(folder, 0, 1, 2), squares(folder, 3, split="val")
    train_dense(source, data, tmp_path / "whole", settings, validation=held_out)
    rng, kills = np.random.default_rng(0), 0
    while kills < 10:
        try:
            progress = killing(int(rng.integers(1, 7)))
            train_dense(source, data, tmp_path / "killed", settings, validation=held_out, progress=progress)
            break
        except Killed:
            kills += 1
    train_dense(source, data, tmp_path / "killed", settings, validation=held_out, force=True)
    assert kills == 10
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    one, other = (read_log(tmp_path / n / "training" / "log.csv") for n in ("whole", "killed"))
    assert [(r["step"], r["loss"], r["validation"]) for r in one] == [
        (r["step"], r["loss"], r["validation"]) for r in other
    ]


def test_depth_and_normals_are_learned_and_predicted(source: Any, folder: Path, tmp_path: Path) -> None:
    for quantity, rate in (("depth", 3e-3), ("normals", 2e-3)):
        data = measured(folder, quantity, 0, 1, 2)
        options = DenseOptions(**{**LINEAR, "steps": 120, "every": 60, "rate": rate, "flip": 0})
        outcome = train_dense(source, data, tmp_path / quantity, options, validation=measured(folder, quantity, 3))
        assert outcome.scores is not None
        assert np.mean(outcome.losses[-20:]) < 0.8 * np.mean(outcome.losses[:3])
        (prediction,) = Predictor.load(tmp_path / quantity).predict(folder / "3.png")
        assert prediction.values.shape == ((64, 80) if quantity == "depth" else (3, 64, 80))


def test_mirrored_normals_point_the_other_way(folder: Path) -> None:
    from diffeat.training.heads.truth import truth_of

    data = measured(folder, "normals", 0)
    truth = truth_of(data)
    known = truth.read(data[0])
    plain, mirrored = (truth.cut(known, Cut.whole((80, 64), flip)) for flip in (False, True))
    assert torch.allclose(mirrored.flip(2) * torch.tensor([-1.0, 1, 1])[:, None, None], plain)


def test_validation_pictures_are_cut_as_the_options_say_and_the_run_keeps_it() -> None:
    windows = windows_of(48, DenseOptions(crop=48, stride=0.5, blend="mean"))
    assert windows is not None
    assert windows.boxes((96, 48)) == Windows(size=(48, 48), stride=(24, 24)).boxes((96, 48))
    assert str(windows) == "windows of 48×48 pixels every 0.5 of it, blended by mean"
    square = windows_of(48, DenseOptions(crop="square", stride=1))
    assert square is not None
    assert square.boxes((200, 100)) == [(0, 0, 100, 100), (100, 0, 200, 100)]
    assert str(square) == "windows of squares of the shorter side side by side, blended by hat"
    assert windows_of(None, DenseOptions(crop="whole")) is None
    assert Windows(size=(9, 9)).boxes((15, 9)) == [(0, 0, 9, 9), (6, 0, 15, 9)]  # two thirds, without rounding off


def test_a_number_has_an_interval_where_there_are_pictures_to_draw() -> None:
    known, guess = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    one = LabelScores.of(known, guess, "ab")
    assert str(one).startswith(f"mIoU {100 * (1 / 2 + 2 / 3) / 2:.3g}, boundary F")
    assert np.isnan(one.interval()).all()
    both = one + LabelScores.of(known, known, "ab")
    header, rows = both.table()
    assert header == ["class", "IoU", "95%", "boundary F", "95% of F"]
    assert [row[:2] for row in rows] == [["a", "75"], ["b", "80"], ["pixel accuracy", "87.5"], ["mean", "77.5"]]
    assert rows[0][2] == "[50, 100]"  # the worse picture twice, and the better one


def test_the_interval_of_a_set_with_rare_classes_holds_its_value() -> None:
    """Each of thirty classes is shown by one picture of thirty, beside the first; one in two is told."""
    parts = []
    for k in range(1, 31):
        known = np.array([[0] * 8 + [k] * 8], np.uint8)
        parts.append(LabelScores.of(known, known if k % 2 else np.zeros_like(known), [str(c) for c in range(31)]))
    scores = sum(parts[1:], parts[0])
    low, high = scores.interval()
    assert low <= scores.value <= high
    assert low < high


def test_what_cannot_be_learned_is_refused_before_features_are_read(
    source: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(source), "read", lambda *_: pytest.fail("features were read"))
    Image.fromarray(np.full((64, 80), IGNORE, np.uint8)).save(tmp_path / "void.png")
    Image.fromarray(np.zeros((64, 80), np.uint8)).save(tmp_path / "zeros.png")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "predictor.json").write_text("{}")

    def one(mask: str) -> MaskDataset:
        return MaskDataset("mine", "", (MaskSample(folder / "0.png", tmp_path / mask),), ("a", "b"))

    wrong: list[tuple[Any, str]] = [
        ({"data": one("void.png")}, "are void"),
        ({"data": one("zeros.png")}, "one class only"),
        ({"data": one("nowhere.png")}, "no label map"),
        ({"data": squares(folder)}, "no pictures"),
        ({"data": squares(folder, 0, classes=("only",))}, "which is none of the 1 classes"),
        ({"validation": squares(folder, 3, classes=("ground", "circle"))}, "'circle'"),
        ({"validation": measured(folder, "depth", 3)}, "something else"),
        ({"folder": tmp_path / "taken"}, "is there already"),
    ]
    for change, message in wrong:
        arguments = {"data": squares(folder, 0, 1), "folder": tmp_path / "run", **change}
        with pytest.raises((DatasetError, InvalidValueError), match=message) as caught:
            train_dense(source, options=DenseOptions(**LINEAR), **arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jitter": (2, 1)}, "smaller first"),
        ({"crop": "whole", "jitter": (0.5, 2)}, "whole pictures are not scaled"),
        ({"channels": 3}, "channels would be ignored: it belongs to heads fpn and upernet"),
        ({"head": "fpn", "pools": (1, 2)}, "belongs to head upernet"),
        ({"rank": 3}, "belongs to tune lora"),
        ({"tune": "lora", "variants": 2}, "cannot be stored"),
        ({"final": 1.0}, "above the rate"),
        ({"hed": "fpn"}, "head"),
        ({"crop": "whole", "stride": 0.5}, "stride would be ignored: whole pictures are predicted whole"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as caught:
        DenseOptions(**options)
    assert "\n" not in str(caught.value)


def test_another_training_in_the_folder_and_one_picture(source: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_dense(source, squares(folder, 0), out, DenseOptions(**LINEAR))  # one picture, nothing to choose on
    facts = json.loads((out / "predictor.json").read_text())
    assert facts["classes"] == ["ground", "square"]
    with pytest.raises(InvalidValueError, match="--force"):
        train_dense(source, squares(folder, 0), out, DenseOptions(**LINEAR))
    with pytest.raises(InvalidValueError, match=r"holds a training of other settings: rate \(0.001 there, 0.1 now"):
        train_dense(source, squares(folder, 0), out, DenseOptions(**{**LINEAR, "rate": 0.1}), force=True)
    absent = train_dense(
        source, squares(folder, 0, classes=("ground", "square", "moon")), tmp_path / "moon", DenseOptions(**LINEAR)
    )
    assert any("no training picture shows moon" in note for note in absent.notes)
