"""Segmentation from few labels: the streamed form against the plain one, numbers by hand, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from diffeat.datasets.label_scarce import read_label_scarce
from diffeat.datasets.labelled import IGNORE, MaskDataset, MaskSample
from diffeat.errors import DatasetError, InvalidValueError, UnknownNameError
from diffeat.extraction import Recipe, load_source
from diffeat.features import FeatureMap, Streams
from diffeat.geometry import Frame, FrameSpec
from diffeat.report.labels import example_picture
from diffeat.tasks.ridge import RidgeSums
from diffeat.tasks.segmentation import (
    Confusion,
    EnsembleSettings,
    LinearProbe,
    PictureMaps,
    PixelEnsemble,
    SegmentationOptions,
    TrainingPixels,
    evaluate_segmentation,
)
from diffeat.tasks.segmentation.linear import add_picture
from diffeat.tasks.segmentation.members import pixel_classifier, train_together

SIZE = (36, 28)  # width, height
GRIDS = ((5, 7, 9), (3, 14, 18))


FRAMES = {mode: FrameSpec(mode=mode, size=(36, 32)).frame(SIZE) for mode in ("squash", "pad")}
SQUARE = FrameSpec(mode="squash", size=32).frame((32, 32))


def picture(seed: int, mode: str = "squash") -> PictureMaps:
    generator = torch.Generator().manual_seed(seed)
    return PictureMaps.over([torch.randn(*g, generator=generator) for g in GRIDS], FRAMES[mode])


def enlarged(p: PictureMaps, frame: Frame) -> torch.Tensor:
    """What the streamed form must equal: every map at the picture's size, side by side."""
    return torch.cat([frame.map_to_original(m.values) for m in p.maps])


@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_pixels_are_those_of_enlarged_features(mode: str) -> None:
    pictures = [picture(i, mode) for i in range(3)]
    labels = [np.random.default_rng(i).integers(0, 3, SIZE[::-1]) for i in range(3)]
    pixels = TrainingPixels(pictures, labels, rare=0)
    assert len(pixels) == 3 * SIZE[0] * SIZE[1]
    expected = torch.cat([enlarged(p, FRAMES[mode]).flatten(1).T for p in pictures])
    got = pixels.features(torch.arange(len(pixels)))
    assert torch.allclose(got, expected, atol=1e-5)
    assert torch.equal(pixels.labels, torch.from_numpy(np.concatenate([x.ravel() for x in labels])))


@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_rows_of_a_projection_are_the_projection_of_rows(mode: str) -> None:
    p = picture(0, mode)
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.einsum("kc,chw->khw", weight, enlarged(p, FRAMES[mode]))
    projected = p.project(weight)
    assert torch.allclose(torch.cat([projected.rows(0, 10), projected.rows(10, 28)], 1), expected, atol=1e-5)


def easy(count: int) -> tuple[list[PictureMaps], list[np.ndarray]]:
    """Pictures whose first map shows the label."""
    pictures, labels = [], []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        blocks = torch.randint(0, 3, (4, 4), generator=generator)
        code = F.one_hot(blocks, 3).permute(2, 0, 1).float().repeat_interleave(4, 1).repeat_interleave(4, 2)
        noise = 0.1 * torch.randn(2, 8, 8, generator=generator)
        pictures.append(PictureMaps.over([code + 0.1 * torch.randn(3, 16, 16, generator=generator), noise], SQUARE))
        labels.append(blocks.repeat_interleave(8, 0).repeat_interleave(8, 1).numpy())
    return pictures, labels


SMALL = EnsembleSettings(members=3, epochs=8)


@pytest.mark.parametrize("make", [lambda: PixelEnsemble(3, SMALL), lambda: LinearProbe(3)], ids=["ensemble", "linear"])
def test_classifiers_learn(make) -> None:
    pictures, labels = easy(6)
    model = make().fit(TrainingPixels(pictures[:4], labels[:4], most=300))
    confusion = Confusion(3)
    for p, truth in zip(pictures[4:], labels[4:], strict=True):
        confusion.add(truth, model.predict(p).labels.numpy())
    assert confusion.miou > 0.85


def test_ensemble_votes_and_is_unsure_as_members_disagree() -> None:
    pictures, labels = easy(3)
    ensemble = PixelEnsemble(3, EnsembleSettings(members=4, epochs=1)).fit(TrainingPixels(pictures, labels, most=100))
    found = ensemble.predict(pictures[0])
    pixels = enlarged(pictures[0], SQUARE).flatten(1).T
    with torch.no_grad():
        opinions = torch.stack([m(pixels).softmax(1) for m in ensemble.members])
    assert torch.equal(found.labels.flatten(), opinions.argmax(2).mode(0).values)
    entropy = lambda p: -(p * p.log()).sum(-1)  # noqa: E731
    expected = entropy(opinions.mean(0)) - entropy(opinions).mean(0)
    assert found.uncertainty is not None
    assert torch.allclose(found.uncertainty.flatten(), expected, atol=1e-5)
    assert found.unsure == pytest.approx(expected.topk(102).values.mean().item(), abs=1e-5)


def test_linear_probe_is_ridge_regression() -> None:
    pictures, labels = easy(3)
    training = TrainingPixels(pictures, labels, rare=0)
    probe = LinearProbe(3, strengths=(0.05,)).fit(training)
    x = training.features(torch.arange(len(training))).double()
    z = (x - x.mean(0)) / x.std(0, correction=0)
    y = 2 * F.one_hot(training.labels, 3).double() - 1
    w = torch.linalg.solve(z.T @ z / len(z) + 0.05 * torch.eye(5), z.T @ (y - y.mean(0)) / len(z))
    scores = (z @ w + y.mean(0)).argmax(1)
    got = torch.cat([probe.predict(p).labels.flatten() for p in pictures])
    assert (got == scores).double().mean() > 0.999


def test_ensembles_are_read_from_state_dicts() -> None:
    pictures, labels = easy(2)
    one = PixelEnsemble(3, EnsembleSettings(members=2, epochs=1)).fit(TrainingPixels(pictures, labels, most=100))
    states = [{f"module.layers.{key}": value for key, value in m.state_dict().items()} for m in one.members]
    assert torch.equal(PixelEnsemble.of(states).predict(pictures[0]).labels, one.predict(pictures[0]).labels)
    assert PixelEnsemble.of(states).classes == 3
    for broken in ([], [{}], [states[0] | {"module.layers.3.weight": torch.zeros(2, 2)}]):
        with pytest.raises(InvalidValueError, match=r"no pixel classifier|got none"):
            PixelEnsemble.of(broken)


class Double(TrainingPixels):
    """In float64, where rounding does not grow: Adam makes whole steps of gradients that are zero but for rounding."""

    def features(self, which: torch.Tensor) -> torch.Tensor:
        return super().features(which).double()


def members_of(pixels: TrainingPixels, settings: EnsembleSettings) -> tuple[list, list[torch.Generator]]:
    generators = [torch.Generator().manual_seed(k) for k in range(settings.members)]
    return [pixel_classifier(pixels.channels, 3, g).double() for g in generators], generators


def trained_apart(pixels: TrainingPixels, settings: EnsembleSettings) -> list[torch.nn.Sequential]:
    """The members one after the other, by torch's own modules: what training them together must equal."""
    members, generators = members_of(pixels, settings)
    for member, generator in zip(members, generators, strict=True):
        optimiser = torch.optim.Adam(member.train().parameters(), settings.rate)
        best, waited = float("inf"), 0
        for epoch in range(settings.epochs):
            for some in torch.randperm(len(pixels), generator=generator).split(settings.batch):
                if len(some) < settings.batch or waited > settings.patience:
                    break
                loss = F.cross_entropy(member(pixels.features(some)), pixels.labels[some])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if epoch >= 4:
                    waited = 0 if loss.item() < best else waited + 1
                    best = min(best, loss.item())
    return members


def test_members_trained_together_are_those_trained_apart() -> None:
    """Each stops by itself after the fourth epoch, and takes whole batches only."""
    pictures, _ = easy(2)
    chance = [np.random.default_rng(i).integers(0, 3, (32, 32)) for i in range(2)]  # losses that go up and down
    pixels = Double(pictures, chance, most=200)
    settings = EnsembleSettings(members=3, epochs=9, patience=2)
    members, generators = members_of(pixels, settings)
    together, apart = train_together(members, pixels, settings, generators), trained_apart(pixels, settings)
    steps = [int(member.state_dict()["2.num_batches_tracked"]) for member in together]
    assert len(set(steps)) > 1
    assert min(steps) > 4 * 6
    for one, other in zip(together, apart, strict=True):
        for name, value in other.state_dict().items():
            assert torch.allclose(one.state_dict()[name], value, atol=1e-6), name


@pytest.mark.parametrize("labelled", [1.0, 0.3])
def test_sums_over_cells_are_sums_over_pixels(labelled: float) -> None:
    maps = PictureMaps.over([m.values for m in picture(0, "pad").maps], FRAMES["pad"])
    square = PictureMaps.over([torch.randn(4, 6, 6)], SQUARE, square=40)
    for p in (maps, square):
        rng = np.random.default_rng(0)
        labels = np.where(rng.random(p.size) < labelled, rng.integers(0, 3, p.size), IGNORE)
        pixels = TrainingPixels([p], [labels], rare=0)
        sums, expected = RidgeSums(p.channels, 3), RidgeSums(p.channels, 3)
        add_picture(sums, p, pixels.y, pixels.x, pixels.labels)
        expected.add(pixels.features(torch.arange(len(pixels))), pixels.labels)
        for one, other in zip(sums.solve(0.1), expected.solve(0.1), strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def test_confusion_by_hand() -> None:
    confusion = Confusion(4)
    confusion.add(np.array([[0, 0, 1, IGNORE]]), np.array([[0, 1, 1, 2]]))
    assert confusion.iou[:2] == pytest.approx([1 / 2, 1 / 2])
    assert np.isnan(confusion.iou[2:]).all()
    assert confusion.miou == pytest.approx(0.5)
    assert confusion.accuracy == pytest.approx(2 / 3)
    published = Confusion.as_gdf(4)
    published.add(np.array([[0, 0, 1, IGNORE, IGNORE]]), np.array([[0, 1, 1, 2, 1]]))
    assert (published + published).iou == pytest.approx([1 / 2, 1 / 3, 0, 0])
    assert published.miou == pytest.approx(5 / 24)


def test_rare_labels_are_ignored_in_their_picture() -> None:
    pictures, labels = easy(2)
    labels[0][0, :10] = 7
    training = TrainingPixels(pictures, labels, rare=20)
    assert 7 not in training.labels
    assert len(training) == 2 * 32 * 32 - 10


def test_one_class_is_nothing_to_learn() -> None:
    pictures, _ = easy(1)
    with pytest.raises(InvalidValueError, match="two classes"):
        TrainingPixels(pictures, [np.zeros((32, 32), int)])


# ---- a whole evaluation


class Colours(Streams):
    """A source whose features are the picture itself, small."""

    fingerprint = ""

    class recipe:
        name, prompt, template, hash = "colours", "", "{}", "c" * 64

        @staticmethod
        def content() -> dict:
            return {"colours": 1}

        @staticmethod
        def text_for(prompt: str | None) -> str:
            return prompt or ""

    def stream(self, images, prompts=None, *, on_error=None):
        for p in images:
            frame = FrameSpec(mode="squash", size=32).frame(p.image.size)
            maps = {"rgb": F.avg_pool2d(frame.pixels(p.image), 2), "rough": F.avg_pool2d(frame.pixels(p.image), 8)}
            yield FeatureMap(maps, frame, p.name, p.digest, {})


@pytest.fixture
def horse(tmp_path: Path) -> Path:
    """A dataset in the label-scarce layout: colour tells the label."""
    palette = np.array([[40, 40, 40], [200, 60, 60], [60, 60, 200], [60, 200, 60]], np.uint8)
    for split, count in (("train", 6), ("test", 5)):
        folder = tmp_path / "real" / split
        folder.mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng((i, count))
            labels = np.kron(rng.integers(0, 3, (4, 4)), np.ones((10, 8), int))
            noisy = palette[labels] + rng.normal(0, 160, (*labels.shape, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
            np.save(folder / f"{i}.npy", labels)
    return tmp_path


def test_evaluation_over_random_splits(horse: Path, tmp_path: Path) -> None:
    train, test = (read_label_scarce(horse, "cat15", s) for s in ("train", "test"))
    options = SegmentationOptions(classifier="linear", splits=3, labelled=4)
    found = evaluate_segmentation((train, test), Colours(), options, store=tmp_path / "store")
    assert len(found.values) == 3
    assert found.std > 0
    assert found.value == pytest.approx(np.mean(found.values))
    assert found.value > 60
    low, high = found.interval()
    assert low <= found.value <= high
    assert [e.labelling.labels.shape for e in found.examples] == [(40, 32)] * 8
    assert "± " in str(found)
    for split in found.splits:
        assert not {s.image for s in split.train} & {s.image for s in split.test}


@pytest.mark.slow
def test_the_published_protocol(horse: Path, tmp_path: Path) -> None:
    """Labels of any size; every model's maps enlarged twice, then side by side; all classes count."""
    for file in horse.rglob("*.npy"):
        np.save(file, np.load(file).repeat(3, 0)[:, ::2])
    test_labels = np.load(horse / "real" / "test" / "0.npy")
    test_labels[:30] = IGNORE
    np.save(horse / "real" / "test" / "0.npy", test_labels)
    parts = [{"kind": "baseline", "name": "RGB patches", "stride": n} for n in (4, 6)]
    source = load_source(Recipe.from_dict({"parts": parts, "join": "concat"}))
    train, test = (read_label_scarce(horse, "cat15", split).limited(n) for split, n in (("train", 4), ("test", 2)))
    options = SegmentationOptions(classifier="linear", protocol="gdf", pixels=200)
    result = evaluate_segmentation((train, test), source, options, store=tmp_path / "store")
    assert "256×256" in str(result)
    assert {p.name for p in tmp_path.glob("features-*")} == {f"features-{s.recipe.hash[:12]}" for s in source.sources}

    def maps(sample: MaskSample) -> PictureMaps:
        features = [next(iter(s.stream([sample.image]))) for s in source.sources]
        sized = [F.interpolate(f.tensor[None], size=(f.tensor.shape[2],) * 2) for f in features]
        whole = [F.interpolate(x, size=(256, 256), mode="bilinear", align_corners=False)[0] for x in sized]
        return PictureMaps.over([torch.cat(whole)], FrameSpec(mode="squash", size=256).frame((256, 256)))

    truths = [np.load(s.mask)[np.arange(256) * 120 // 256][:, np.arange(256) * 16 // 256] for s in train]
    probe = LinearProbe(15).fit(TrainingPixels([maps(s) for s in train], truths, most=200))
    hit, union = np.zeros((2, 15))
    for sample in test:
        truth = np.load(sample.mask)[np.arange(256) * 120 // 256][:, np.arange(256) * 16 // 256]
        labels = probe.predict(maps(sample)).labels.numpy()
        hit += [((labels == k) & (truth == k)).sum() for k in range(15)]
        union += [((labels == k) | (truth == k)).sum() for k in range(15)]
    assert result.value == pytest.approx(100 * np.mean(hit / (union + 1e-8)), abs=0.01)
    assert np.isfinite(result.iou).all()
    low, high = result.interval()
    assert low <= result.value <= high
    assert example_picture(result.examples[0]).height == 160


def test_a_class_absent_from_training_is_told(horse: Path) -> None:
    labels = np.load(horse / "real" / "test" / "0.npy")
    labels[:20] = 5
    np.save(horse / "real" / "test" / "0.npy", labels)
    train, test = (read_label_scarce(horse, "cat15", s) for s in ("train", "test"))
    found = evaluate_segmentation((train, test), Colours(), SegmentationOptions(classifier="linear"))
    assert any("paw" in note and "IoU 0" in note for note in found.notes)
    assert found.iou[5] == 0


def test_a_class_that_is_predicted_and_occurs_nowhere_is_told(horse: Path) -> None:
    read = [read_label_scarce(horse, "cat15", s) for s in ("train", "test")]
    shown = np.load(horse / "real" / "test" / "0.npy")
    gone = int(shown.max())
    for file in (horse / "real" / "test").glob("*.npy"):
        labels = np.load(file)
        np.save(file, np.where(labels == gone, 0, labels))
    found = evaluate_segmentation((read[0], read[1]), Colours(), SegmentationOptions(classifier="linear"))
    assert found.iou[gone] == 0
    rest = np.nanmean(np.delete(found.iou, gone))
    assert rest > found.value
    note = next(note for note in found.notes if "in no test picture" in note)
    assert read[0].classes[gone] in note
    assert f"mean without them: {rest:.2f}" in note
    gdf = evaluate_segmentation((read[0], read[1]), Colours(), SegmentationOptions(classifier="linear", protocol="gdf"))
    assert not any("in no test picture" in note for note in gdf.notes)  # there every absent class counts 0


def test_bad_input_is_told(horse: Path) -> None:
    with pytest.raises(UnknownNameError, match="horse21"):
        read_label_scarce(horse, "horse22")
    np.save(horse / "real" / "train" / "1.npy", np.zeros((20, 20), int))
    train, test = (read_label_scarce(horse, "cat15", s) for s in ("train", "test"))
    with pytest.raises(DatasetError, match=r"20×20.*32×40"):
        evaluate_segmentation((train, test), Colours())
    np.save(horse / "real" / "train" / "1.npy", np.full((40, 32), 77))
    with pytest.raises(DatasetError, match="label 77"):
        evaluate_segmentation((train, test), Colours())
    with pytest.raises(InvalidValueError, match="9 labelled"):
        evaluate_segmentation((train, test), Colours(), SegmentationOptions(labelled=9))
    for file in (horse / "real" / "train").glob("*.npy"):
        file.unlink()
    with pytest.raises(DatasetError, match="no label map"):
        read_label_scarce(horse, "cat15", "train")


def test_masks_of_pictures_and_of_categories(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    Image.fromarray(np.ones((4, 6), np.uint8)).save(tmp_path / "m.png")
    sample = MaskSample(tmp_path / "a.png", tmp_path / "m.png", "dog")
    assert (sample.labels(2) == 1).all()
    dataset = MaskDataset("x", "train", (sample,), ("a", "b"))
    assert len(dataset.only(["dog"])) == 1
    with pytest.raises(UnknownNameError, match="dog"):
        dataset.only(["dig"])
