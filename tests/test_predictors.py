"""Run folders, predictors and sliding windows: against brute force, loaded anew, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from diffeat.datasets.labelled import ClassDataset, ClassSample, MaskDataset, MaskSample
from diffeat.errors import DiffeatError, InvalidValueError, ModelError, UnknownNameError
from diffeat.extraction import Reading, load_source
from diffeat.features import FeatureMap, Source
from diffeat.report.predictions import DRAWERS, drawn, palette_picture
from diffeat.tasks.predictors.evaluate import evaluate_head
from diffeat.tasks.predictors.fit import fit_class_probe, fit_pixel_probe
from diffeat.tasks.predictors.folder import FACTS, RECIPE, WEIGHTS, PredictorFacts
from diffeat.tasks.predictors.head import GridHead
from diffeat.tasks.predictors.predictor import Predictor
from diffeat.tasks.predictors.registry import HEADS
from diffeat.tasks.predictors.target import TARGETS, Legend
from diffeat.tasks.predictors.windows import Windows
from diffeat.tasks.segmentation import EnsembleSettings

CLASSES = ("grey", "red", "blue")
COLOURS = np.array([[90, 90, 90], [200, 60, 60], [60, 60, 200]])


@pytest.fixture(scope="module")
def source() -> Source[FeatureMap]:
    return load_source("baseline:rgb")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MaskDataset:
    """Pictures of blocks whose colour tells the class."""
    folder = tmp_path_factory.mktemp("blocks")
    samples = []
    for k in range(5):
        rng = np.random.default_rng(k)
        labels = np.kron(rng.integers(0, 3, (4, 5)), np.ones((16, 16), int))
        picture = COLOURS[labels] + rng.normal(0, 20, (*labels.shape, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")
        np.save(folder / f"{k}.npy", labels)
        samples.append(MaskSample(folder / f"{k}.png", folder / f"{k}.npy"))
    return MaskDataset("blocks", "train", tuple(samples), CLASSES)


@pytest.fixture(scope="module")
def linear(data: MaskDataset, source: Source[FeatureMap]) -> Predictor:
    return fit_pixel_probe(data, source)


@pytest.fixture(scope="module")
def ensemble(data: MaskDataset, source: Source[FeatureMap]) -> Predictor:
    return fit_pixel_probe(data, source, "ensemble", settings=EnsembleSettings(members=3, epochs=2), pixels=300)


class Plain(GridHead):
    """The first channels as they are, on a grid of their own."""

    kind = "plain"

    @classmethod
    def of(cls, settings, state, source):
        return cls()

    settings = {}  # pyright: ignore

    def state(self):
        return {}

    def to(self, device):
        return self

    def scores(self, features):
        return features.tensor[:3]


@pytest.mark.parametrize("kind", ["linear", "ensemble"])
def test_a_run_folder_gives_the_same_predictions_wherever_it_lies(
    kind: str, request: pytest.FixtureRequest, data: MaskDataset, tmp_path: Path
) -> None:
    predictor: Predictor = request.getfixturevalue(kind)
    predictor.save(tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    loaded = Predictor.load(tmp_path / "elsewhere")
    files = [sample.image for sample in data]
    arrays = [np.asarray(Image.open(f)) for f in files]
    for one, other in zip(predictor.predict(files), loaded.predict(arrays), strict=True):
        assert np.array_equal(one.values, other.values)
        assert one.uncertainty is not None
        assert other.uncertainty is not None
        assert np.allclose(one.uncertainty, other.uncertainty, atol=1e-6)
    assert loaded.facts == predictor.facts.model_copy(update={"weights": loaded.facts.weights})
    assert "grey, red, blue" in (tmp_path / "elsewhere" / "README.md").read_text()
    assert "mIoU 9" in str(evaluate_head(loaded, data))  # above 90


def test_probabilities_are_calibrated_and_doubts_lie_where_errors_are(linear: Predictor, data: MaskDataset) -> None:
    wrong, doubts = [], []
    for prediction, sample in zip(linear.predict([s.image for s in data], probabilities=True), data, strict=True):
        assert prediction.probabilities is not None
        assert np.allclose(prediction.probabilities.sum(0), 1, atol=1e-5)
        assert (prediction.probabilities.argmax(0) == prediction.values).all()
        wrong.append((prediction.values != sample.labels(3)).ravel())
        doubts.append(np.asarray(prediction.uncertainty).ravel())
    errors, doubt = np.concatenate(wrong), np.concatenate(doubts)
    assert doubt[errors].mean() > 2 * doubt[~errors].mean()


def test_the_ensemble_votes_as_it_did_before_it_was_kept(ensemble: Predictor, data: MaskDataset, source) -> None:
    from diffeat.tasks.predictors.probes import VotingPixels
    from diffeat.tasks.segmentation import PictureMaps

    assert isinstance(ensemble.head, VotingPixels)
    image = data[0].image
    expected = ensemble.head.ensemble.predict(PictureMaps.of(source.extract(image)[0]))
    prediction = next(ensemble.predict(image))
    assert np.array_equal(prediction.values, expected.labels.numpy())
    assert np.allclose(prediction.uncertainty, expected.uncertainty, atol=1e-6)  # pyright: ignore


@pytest.mark.parametrize("blend", ["mean", "hat"])
@pytest.mark.parametrize("size", [(150, 110), (64, 200), (40, 30)])
def test_sliding_equals_brute_force(source: Source[FeatureMap], blend: str, size: tuple[int, int]) -> None:
    """Every window by itself at full size, weighted, added up and divided."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    windows = Windows(size=(64, 48), stride=(40, 24), blend=blend)
    predictor = Predictor(source, Plain(), PredictorFacts(kind="linear", target="normals"))
    got = next(predictor.predict(picture, windows=windows)).values
    sums, weights = np.zeros((3, *size[::-1])), np.zeros(size[::-1])
    for x in sorted({min(x, max(0, size[0] - 64)) for x in range(0, size[0], 40)}):
        for y in sorted({min(y, max(0, size[1] - 48)) for y in range(0, size[1], 24)}):
            crop = picture[y : y + 48, x : x + 64]
            feature = source.extract(crop)[0]
            values = F.interpolate(feature.tensor[None, :3], size=crop.shape[:2], mode="bilinear")[0].numpy()
            hats = [np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in crop.shape[:2]]
            weight = np.outer(*hats).astype(float) if blend == "hat" else np.ones(crop.shape[:2])
            sums[:, y : y + 48, x : x + 64] += weight * values
            weights[y : y + 48, x : x + 64] += weight
    expected = F.normalize(torch.from_numpy(sums / weights), dim=0).numpy()
    assert np.allclose(got, expected, atol=1e-4)


def test_windows_are_read_once_and_their_maps_are_let_go(source, monkeypatch: pytest.MonkeyPatch) -> None:
    """However tall the picture is, a few windows are held, and each is encoded once."""
    from diffeat.tasks.predictors import windows as room

    held, read = [], []
    take = room.Mosaic.add

    def watched(self, box, part, following):
        read.append(box)
        yield from take(self, box, part, following)
        held.append(len(self._parts))

    monkeypatch.setattr(room.Mosaic, "add", watched)
    predictor = Predictor(source, Plain(), PredictorFacts(kind="linear", target="depth"))
    for height in (128, 640):
        read.clear()
        held.clear()
        picture = np.zeros((height, 96, 3), np.uint8)
        prediction = next(predictor.predict(picture, windows=Windows(size=(64, 64), stride=(32, 32))))
        assert prediction.values.shape == (height, 96)
        assert len(read) == len(set(read)) == 2 * (height // 32 - 1)
        assert max(held) <= 4
    assert max(held) < len(read) / 8


def test_one_that_fails_costs_no_other(linear: Predictor, data: MaskDataset, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    files = [data[0].image, broken, tmp_path / "gone.png", data[1].image]
    told: list[str] = []
    for windows in (None, Windows(size=(32, 32))):
        found = list(linear.predict(files, windows=windows, on_error=lambda name, _: told.append(Path(name).name)))
        assert [p.name for p in found] == [data[0].image.as_posix(), data[1].image.as_posix()]
    assert told == ["broken.png", "gone.png"] * 2


def test_classes_of_pictures(source: Source[FeatureMap], linear: Predictor, tmp_path: Path) -> None:
    def block(k: int, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(0, 20, (32, 32, 3))
        return (COLOURS[k] + noise).clip(0, 255).astype(np.uint8)

    samples = tuple(ClassSample(block(k % 3, k), k % 3) for k in range(18))
    predictor = fit_class_probe(ClassDataset("blocks", "train", samples, CLASSES), source)
    predictor.save(tmp_path / "run")
    loaded = Predictor.from_pretrained(tmp_path / "run")
    found = list(loaded.predict(block(k, 100 + k) for k in range(3)))
    assert [int(p.values) for p in found] == [0, 1, 2]
    assert all(sum(p.shares.values()) == pytest.approx(1, abs=1e-5) for p in found)
    assert found[0].confidence == pytest.approx(max(found[0].shares.values()))
    others = ClassDataset(
        "blocks", "test", tuple(ClassSample(block(k, 50 + k), (k + 1) % 3) for k in range(2)), CLASSES
    )
    scored = evaluate_head(loaded, others, shown=2)  # every class is told to be another
    assert (scored.value, scored.interval(), list(scored.shown)) == (0, (0, 0), [])
    assert "accuracy 0 [0, 0] on 2 pictures of blocks test" in str(scored)
    with pytest.raises(InvalidValueError, match="holds classes"):
        evaluate_head(linear, others)
    with pytest.raises(InvalidValueError, match="whole pictures"):
        next(loaded.predict(block(0, 0), windows=Windows(size=(16, 16))))


def test_tensors_and_batches(linear: Predictor) -> None:
    batch = torch.rand(2, 3, 48, 64)
    found = list(linear.predict(batch))
    assert [p.values.shape for p in found] == [(48, 64)] * 2
    assert np.array_equal(next(linear.predict(batch[1])).values, found[1].values)


def test_the_hub_is_asked_for_owner_and_name(linear: Predictor, tmp_path: Path, monkeypatch) -> None:
    """The real call, on a cache that a download would have left."""
    import huggingface_hub.constants as constants

    snapshot = tmp_path / "models--someone--horses" / "snapshots" / ("a" * 40)
    linear.save(snapshot)
    refs = tmp_path / "models--someone--horses" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Predictor.from_pretrained("someone/horses").legend.classes == CLASSES
    with pytest.raises(ModelError, match="someone/cats"):
        Predictor.from_pretrained("someone/cats")


BROKEN = {
    "no weights": (lambda run: (run / WEIGHTS).unlink(), "lacks predictor.safetensors"),
    "no recipe": (lambda run: (run / RECIPE).unlink(), "lacks recipe.yaml"),
    "no facts": (lambda run: (run / FACTS).unlink(), "recipe without a head"),
    "other weights": (lambda run: (run / WEIGHTS).write_bytes(b"x" * 100), "not the head that"),
    "other recipe": (lambda run: (run / RECIPE).write_text("{kind: baseline, stride: 6}"), "belongs to another recipe"),
    "other kind": (lambda run: edit(run, kind="lineer"), "linear"),
    "newer": (lambda run: edit(run, format=2), "newer diffeat"),
    "few colours": (lambda run: edit(run, colours=[[0, 0, 0]]), "as many colours"),
}


def edit(run: Path, **changes) -> None:
    facts = json.loads((run / FACTS).read_text())
    (run / FACTS).write_text(json.dumps(facts | changes))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_folder_is_told_in_a_line(name: str, linear: Predictor, tmp_path: Path) -> None:
    run = linear.save(tmp_path / "run")
    spoil, message = BROKEN[name]
    spoil(run)
    with pytest.raises(DiffeatError, match=message) as caught:
        Predictor.load(run)
    assert "\n" not in str(caught.value)


def test_nothing_is_written_over_and_other_classes_are_refused(linear: Predictor, data, tmp_path: Path) -> None:
    linear.save(tmp_path)
    with pytest.raises(InvalidValueError, match="already"):
        linear.save(tmp_path)
    other = MaskDataset("others", "test", data.samples, ("grey", "blue", "red"))
    with pytest.raises(InvalidValueError, match="label 1 is 'blue' there and 'red' in the run"):
        evaluate_head(linear, other)
    with pytest.raises(InvalidValueError, match="nothing but pixels"):
        fit_pixel_probe(MaskDataset("void", "train", data.samples, CLASSES), linear.source, rare=10**6)
    with pytest.raises((ModelError, InvalidValueError), match="no run folder"):
        Predictor.load(tmp_path / "gone")
    with pytest.raises(InvalidValueError, match="larger than the windows"):
        Windows(size=(10, 10), stride=(11, 5))


def test_every_head_and_target_is_registered() -> None:
    """Each kind has a name of its own and can be drawn."""
    assert all(head.kind == name for name, head in HEADS.items())
    assert DRAWERS.keys() == TARGETS.keys()
    with pytest.raises(UnknownNameError):
        PredictorFacts(kind="nothing", target="labels", classes=("a", "b"))


def test_masks_are_palette_pictures(linear: Predictor, data: MaskDataset) -> None:
    prediction = next(linear.predict(data[0].image))
    picture = palette_picture(np.asarray(prediction.values), prediction.legend)
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), prediction.values)
    result = drawn(prediction)
    assert {folder for folder, _ in result.files} == {"masks", "overlays", "uncertainty"}
    assert sum(result.row["classes"].values()) == pytest.approx(1, abs=1e-4)
    many = Legend(tuple(map(str, range(300))))
    assert np.array_equal(np.asarray(palette_picture(np.array([[299, 0]]), many)), [[299, 0]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_head_is_refused_on_another_model_of_the_same_name_in_any_precision(dtype: str, tmp_path: Path) -> None:
    from diffeat import zoo
    from diffeat.tasks.predictors.folder import write_run
    from diffeat.tasks.predictors.predictor import model_of

    model = tmp_path / "one" / "mine"
    shutil.copytree(zoo.path("tiny-unet"), model)
    recipe = Reading.load("tiny-unet").replace(model=str(model))
    source = load_source(recipe, device="cpu", dtype="float32")
    facts = PredictorFacts(
        kind="linear", target="labels", classes=("a", "b"), settings={"activations": []},
        fingerprint=source.fingerprint, precision=source.precision, model=model_of(source),
    )  # fmt: skip
    write_run(tmp_path / "run", recipe, facts, {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    other = tmp_path / "other" / "mine"
    shutil.move(model.parent, other.parent)
    text = (tmp_path / "run" / RECIPE).read_text().replace(str(model), str(other))
    (tmp_path / "run" / RECIPE).write_text(text)
    Predictor.load(tmp_path / "run", device="cpu", dtype=dtype)  # the same model at another place
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["conv_in.weight"] = -state["conv_in.weight"]
    save_file(state, file)
    with pytest.raises(ModelError, match=r"was trained on another model"):
        Predictor.load(tmp_path / "run", device="cpu", dtype=dtype)
