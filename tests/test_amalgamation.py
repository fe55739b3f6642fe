"""Recipes with views, amalgamations on disk, and their training."""

# ruff: noqa: F811 (arguments are named like the fixtures that are imported)
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffeat import Extractor, Recipe
from diffeat.datasets.labelled import IGNORE
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction import extract_to_store
from diffeat.extraction.joins.amalgamation import (
    Amalgamation,
    AmalgamationConfig,
    LevelAmalgamation,
    SparsityWalk,
    entropy,
    load_amalgamation,
    save_amalgamation,
)
from diffeat.extraction.joins.views import MixedViews
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureStore
from diffeat.techniques import LoRA
from diffeat.training import AmalgamateSettings
from diffeat.training.amalgamated import PUBLISHED
from diffeat.training.amalgamation import labels_on_grid
from support.techniques import backbone, files, picture, recipe  # noqa: F401 (fixtures)

MAP = "up_blocks.2.attentions.0.transformer_blocks.0.attn2.map"


def with_views(files: Any, **fuse: Any) -> Recipe:
    return recipe(
        prompt="a photo of a cat",
        template="a photo of a {}",
        views=[
            {"name": "plain"},
            {"name": "other noise", "seed": 1},
            {"name": "lora", "techniques": [LoRA(path=str(files / "lora.safetensors")).model_dump()]},
            {"name": "dog", "prompt": "a dog"},
            {"name": "attention", "append": True, "activations": [{"id": MAP, "tokens": [1, 2]}]},
        ],
        fuse=fuse,
    )


def test_views_are_joined_as_extracted_one_by_one(backbone: Any, files: Any) -> None:
    joined = Extractor(with_views(files, kind="concat", grid=[8, 8]), backbone).extract(picture(0))[0]
    apart = [
        recipe(prompt="a photo of a cat"),
        recipe(prompt="a photo of a cat", seed=1),
        recipe(LoRA(path=str(files / "lora.safetensors")), prompt="a photo of a cat"),
        recipe(prompt="a dog"),
        recipe(prompt="a photo of a cat", activations=[{"id": MAP, "tokens": [1, 2]}]),
    ]
    fuse = {"kind": "concat", "grid": [8, 8]}
    expected = torch.cat([Extractor(r.replace(fuse=fuse), backbone).extract(picture(0))[0].tensor for r in apart])
    assert torch.allclose(joined.tensor, expected, rtol=1e-4, atol=1e-5)
    mean = Extractor(with_views(files, kind="mean", grid=[8, 8]), backbone).extract(picture(0))[0].tensor
    channels = (len(expected) - 2) // 4
    views = expected[:-2].unflatten(0, (4, channels))
    assert torch.allclose(mean, torch.cat([views.mean(0), expected[-2:]]), rtol=1e-4, atol=1e-5)


def test_text_of_the_caller_goes_through_the_template_once(backbone: Any, files: Any, tmp_path: Path) -> None:
    with_text = with_views(files, kind="concat", grid=[8, 8])
    extractor = Extractor(with_text, backbone)
    direct = extractor.extract(picture(0), "dog")[0].tensor
    plain = extractor.extract(picture(0))[0].tensor
    path = tmp_path / "x.png"
    picture(0).save(path)
    for prompts, expected in (("dog", direct), (None, plain)):
        where = tmp_path / f"store-{prompts}"
        with FeatureStore.open_or_create(where, with_text.content(), with_text.hash) as store:
            extract_to_store(extractor, [path], store, prompts=[prompts])
            stored = store.load(next(iter(store.keys()))).tensor
        assert torch.allclose(stored, expected, rtol=1e-4, atol=1e-5), prompts


def test_a_trained_amalgamation_in_a_recipe(backbone: Any, files: Any, tmp_path: Path) -> None:
    base = with_views(files, kind="concat", grid=[8, 8])
    stack = Extractor(base, backbone).extract(picture(0))[0].tensor
    channels = (len(stack) - 2) // 4
    torch.manual_seed(0)
    network = Amalgamation(AmalgamationConfig(channels, 4, assigners=2, attention=2, convolve=True)).eval()
    save_amalgamation(network, tmp_path / "a.safetensors")
    with torch.no_grad():
        expected, weights = network(stack[:-2].unflatten(0, (4, channels))[None], stack[None, -2:])
    mixed = base.replace(
        fuse={"kind": "amalgamation", "grid": [8, 8], "weights": {"source": str(tmp_path / "a.safetensors")}}
    )
    found = Extractor(mixed, backbone).extract(picture(0))[0]
    assert torch.allclose(found.tensor, expected[0], rtol=1e-3, atol=1e-4)
    assert sum(found.provenance["view_weights"]) == pytest.approx(1, abs=1e-3)
    assert weights.shape == (2, 1, 4, channels)
    elsewhere: Any = SimpleNamespace(device=torch.device("meta"))
    mixture = MixedViews.of(mixed, elsewhere, [])
    assert mixture.network is not None
    assert all(weight.is_meta for weight in mixture.network.parameters())  # where the maps will be


def test_refusals(backbone: Any, files: Any, tmp_path: Path) -> None:
    for changes, match in [
        ({"fuse": {"kind": "amalgamation"}}, "name at least two under 'views'"),
        ({"views": [{"seed": 1}]}, "needs fuse"),
        ({"views": [{"append": True}], "fuse": {"kind": "mean"}}, "not appended"),
        ({"views": [{"sed": 1}], "fuse": {"kind": "mean"}}, "sed"),
    ]:
        with pytest.raises(InvalidValueError, match=match):
            recipe(**changes)
    with pytest.raises(InvalidValueError, match="names no trained weights"):
        Extractor(with_views(files, kind="amalgamation"), backbone)
    with pytest.raises(ModelError, match="cannot be read"):
        load_amalgamation(tmp_path / "none.safetensors")
    odd = recipe(views=[{}, {"activations": ["mid_block"]}], fuse={"kind": "mean"})
    with pytest.raises(InvalidValueError, match="append: true"):
        Extractor(odd, backbone).extract(picture(0))
    assert "views" not in recipe().content()


@pytest.mark.parametrize("kind", ["scalar", "channel"])
def test_weights_follow_the_views(kind: Any) -> None:
    torch.manual_seed(0)
    network = Amalgamation(AmalgamationConfig(6, 4, kind=kind, assigners=2)).eval()
    views = torch.randn(2, 4, 6, 5, 7)
    out, weights = network(views)
    assert out.shape == (2, 12, 5, 7)
    assert weights.shape == (2, 2, 4, 1 if kind == "scalar" else 6)
    assert torch.allclose(weights.sum(2), torch.ones(()))
    order = [2, 0, 3, 1]
    turned, turned_weights = network(views[:, order])
    assert torch.allclose(turned, out, atol=1e-5)
    assert torch.allclose(turned_weights, weights[:, :, order], atol=1e-6)
    with torch.no_grad():
        for assigner in network.weight_assigner:
            assigner[-1].weight.zero_()
            assigner[-1].bias.zero_()
    even, same = network(views)
    assert torch.allclose(even[:, :6], views.mean(1), atol=1e-6)
    assert torch.allclose(entropy(same), torch.ones(2))


def test_weights_of_pixels_by_brute_force() -> None:
    """Every pixel by itself through the published layers; an ensemble mixes with the mean of its members' weights."""
    torch.manual_seed(0)
    network = Amalgamation(AmalgamationConfig(6, 3, assigners=2, attention=2, pixel=True, released=True)).eval()
    views, extra = torch.randn(2, 3, 6, 4, 5), torch.randn(2, 2, 4, 5)
    out, weights = network(views, extra)
    assert weights.shape == (2, 2, 3, 6, 4, 5)
    assert out.shape == (2, 16, 4, 5)
    for k in range(2):
        linear, _, norm, _, last = network.weight_assigner[k]
        hidden = norm((views[1, :, :, 2, 3] @ linear.weight.T + linear.bias).relu())
        by_hand = (hidden @ last.weight.T + last.bias).softmax(0)
        assert torch.allclose(weights[k, 1, :, :, 2, 3], by_hand, atol=1e-6)
        mixture = (by_hand * views[1, :, :, 2, 3]).sum(0)
        assert torch.allclose(out[1, 8 * k : 8 * k + 6, 2, 3], mixture, atol=1e-6)
        assert torch.equal(out[:, 8 * k + 6 : 8 * k + 8], extra)
    network.config = replace(network.config, ensemble=True)
    mixed, mean = network(views, extra)
    assert mixed.shape == (2, network.config.out_channels, 4, 5) == (2, 8, 4, 5)
    assert torch.allclose(mean[0], weights.mean(0))
    assert torch.allclose(mixed[:, :6], (out[:, :6] + out[:, 8:14]) / 2, atol=1e-6)


def test_levels_are_mixed_on_their_own_grids_and_joined(tmp_path: Path) -> None:
    torch.manual_seed(0)
    configs = [AmalgamationConfig(c, 2) for c in (4, 3)]
    network = LevelAmalgamation(configs, grid=(8, 8)).eval()
    levels, extra = [torch.randn(1, 2, 4, 4, 4), torch.randn(1, 2, 3, 8, 8)], torch.randn(1, 5, 8, 8)
    out, weights = network(levels, extra)
    assert out.shape == (1, network.out_channels + 5, 8, 8)
    for level, views, (start, stop), w in zip(network.levels, levels, ((0, 4), (4, 7)), weights, strict=True):
        alone, its = level(views)
        assert torch.equal(w, its)
        wide = torch.nn.functional.interpolate(alone, (8, 8), mode="bilinear")
        assert torch.allclose(out[:, start:stop], wide, atol=1e-6)
    assert torch.equal(out[:, 7:], extra)
    save_amalgamation(network, tmp_path / "levels.safetensors")
    again = load_amalgamation(tmp_path / "levels.safetensors")
    assert torch.equal(again(levels, extra)[0], out)
    with pytest.raises(InvalidValueError, match="1 levels were given to an amalgamation of 2"):
        network(levels[:1])


def test_the_released_walk_step_by_step() -> None:
    """Losses of every fifth step alone count; what is drawn is told here."""
    walk, told = SparsityWalk(), iter([False, 1e-5, False, 1e-5, True, -1e-5, False, -1e-5])
    walk._random = SimpleNamespace(choice=lambda _: next(told))  # type: ignore[assignment]
    expected = []
    for fifth in (8.0, 5.0, 7.0, 7.5):
        for loss in (100.0, 0.0, 50.0, 1.0, fifth):
            expected.append(walk.value)
            walk.update(loss)
    # no fall yet, kept 0, on to 1e-5; a fall of 3: kept 1e-5, on to 2e-5; worse, but by chance kept 2e-5, back to 1e-5;
    # the best is now -2 * 0.9, and a rise of 0.5 is better than that: kept 1e-5, back to 0
    steps = [0.0] * 5 + [1e-5] * 5 + [2e-5] * 5 + [1e-5] * 5
    assert expected == pytest.approx(steps)
    assert walk.value == 0.0
    long = SparsityWalk(seed=1)
    values = [long.update(5.0 - 0.001 * i) for i in range(3000)]
    assert min(values) == 0
    assert 0 < max(values) <= 3000 / 5 * 1e-5


# ---- training: one view is told to be the right one


def synthetic() -> Any:
    """Four pictures of 6×6 cells; view 2 knows each cell, the others are noise."""
    from diffeat.geometry import FrameSpec
    from diffeat.training.amalgamation import _Stack

    frame = FrameSpec(mode="squash", size=(6, 6)).frame((6, 6), multiple=1)
    g = torch.Generator().manual_seed(0)
    code = torch.randn(12, 6, 6, generator=g) + 1  # an assigner can tell it from noise
    return {
        Path(f"{i}.png"): _Stack(
            [torch.stack([torch.randn(12, 6, 6, generator=g), code, torch.randn(12, 6, 6, generator=g)])], None, frame
        )
        for i in range(4)
    }


def all_pairs(paths: Any) -> Any:
    from diffeat.datasets.pairs import PairDataset, PointPair

    points = tuple((float(x), float(y)) for x in range(0, 6, 2) for y in range(0, 6, 2))
    every = [PointPair(f"{a}", a, b, points, points) for a in paths for b in paths if a != b]
    return PairDataset("synthetic", "trn", Path(), tuple(every))


@pytest.mark.parametrize(("kind", "sparsity"), [("channel", 0.0), ("scalar", 0.5)])
def test_training_on_pairs_finds_the_view_that_knows(
    monkeypatch: pytest.MonkeyPatch, kind: Any, sparsity: float
) -> None:
    from diffeat.training import amalgamation as amalgamate

    stacks = synthetic()
    pairs = all_pairs(stacks)
    monkeypatch.setattr(amalgamate, "_stacks", lambda *_: stacks)
    base = recipe(views=[{"name": n} for n in "abc"], fuse={"kind": "mean"})
    settings = AmalgamateSettings(kind=kind, steps=100, rate=3e-3, sparsity=sparsity)
    found = amalgamate.train_on_pairs(base, None, pairs, settings)  # type: ignore[arg-type]
    assert found.weights[0][1] > 0.7, str(found)
    assert sum(found.losses[-20:]) < 0.9 * sum(found.losses[:20])
    assert "b 0." in str(found)
    # batch norm of one view at a time, as in the released code, hides the views from the assigner in training
    published = replace(settings, released=True, steps=60)
    hidden = amalgamate.train_on_pairs(base, None, pairs, published)  # type: ignore[arg-type]
    views = torch.stack([s.levels[0] for s in stacks.values()])
    seen = hidden.network.train().weights(views).mean(dim=(0, 1, 3))
    assert (seen - 1 / 3).abs().max() < 0.05
    assert min(hidden.losses[-20:]) > max(found.losses[-20:])


@pytest.mark.parametrize("released", [False, True])
def test_a_stopped_training_goes_on_to_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, released: bool
) -> None:
    from diffeat.training import amalgamation

    pairs = all_pairs(synthetic())
    monkeypatch.setattr(amalgamation, "_stacks", lambda *_: synthetic())
    base = recipe(views=[{"name": n} for n in "abc"], fuse={"kind": "mean"})

    def train(folder: Path | None, steps: int) -> Any:
        settings = AmalgamateSettings(steps=steps, rate=3e-3, released=released, sparsity=0.1)
        return amalgamation.train_on_pairs(base, None, pairs, settings, folder=folder)  # type: ignore[arg-type]

    whole = train(None, 30)
    train(tmp_path, 12)
    again = train(tmp_path, 30)
    assert again.losses == whole.losses
    one, other = whole.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def labelled_stacks(levels: int) -> tuple[Any, Any]:
    """Four pictures of two classes in stripes. With one level, view 0 knows the class on the left and view 1 on the
    right; with two, view 0 knows it in the first level and view 1 in the second."""
    import numpy as np

    from diffeat.datasets.labelled import MaskDataset, MaskSample
    from diffeat.geometry import FrameSpec
    from diffeat.training.amalgamation import _Stack

    class Given(MaskSample):
        def labels(self, *_: Any) -> Any:
            return truth.numpy().astype(np.int64)

    g = torch.Generator().manual_seed(0)
    truth = (torch.arange(8)[:, None].expand(8, 8) // 2 % 2).long()
    code = torch.randn(2, 6, generator=g)[truth].permute(2, 0, 1) + 2  # an assigner can tell it from noise
    frame = FrameSpec(mode="squash", size=(8, 8)).frame((8, 8), multiple=1)
    stacks = {}
    for i in range(4):
        one, other = (torch.randn(6, 8, 8, generator=g) for _ in range(2))
        left, right = one.clone(), other.clone()
        left[..., :4], right[..., 4:] = code[..., :4], code[..., 4:]
        views = [torch.stack([left, right])] if levels == 1 else [torch.stack([code, other]), torch.stack([one, code])]
        stacks[Path(f"{i}.png")] = _Stack(views, None, frame)
    data = MaskDataset("stripes", "train", tuple(Given(p, p) for p in stacks), ("a", "b"))
    return stacks, data


@pytest.mark.parametrize("released", [False, True])
def test_weights_of_pixels_find_the_view_that_knows_at_every_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, released: bool
) -> None:
    from diffeat.training import amalgamation

    stacks, data = labelled_stacks(1)
    monkeypatch.setattr(amalgamation, "_stacks", lambda *_: stacks)
    base = recipe(views=[{"name": "left"}, {"name": "right"}], fuse={"kind": "mean"})
    how = replace(PUBLISHED["label-scarce"], assigners=2, steps=80, rate=1e-2, released=released)
    found = amalgamation.train_on_labels(base, None, data, how)  # type: ignore[arg-type]
    weights = found.network.weights(torch.stack([s.levels[0] for s in stacks.values()]))
    assert weights.shape == (1, 4, 2, 6, 8, 8)
    left = weights[0, :, 0].mean(dim=(0, 1))  # of the view that knows the left half
    assert left[:, :4].mean() > left[:, 4:].mean() + (0.1 if released else 0.3)
    assert found.losses[-1] < found.losses[0] / 2
    for steps in (7, 20):
        stopped = amalgamation.train_on_labels(base, None, data, replace(how, steps=steps), folder=tmp_path)  # type: ignore[arg-type]
    assert stopped.losses == amalgamation.train_on_labels(base, None, data, replace(how, steps=20)).losses  # type: ignore[arg-type]


def test_levels_find_the_view_that_knows_in_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from diffeat.training import amalgamation

    stacks, data = labelled_stacks(2)
    monkeypatch.setattr(amalgamation, "_stacks", lambda *_: stacks)
    base = recipe(views=[{"name": "one"}, {"name": "other"}], fuse={"kind": "mean"})
    how = replace(PUBLISHED["segmentation"], steps=80, rate=5e-3, final=1e-3, released=False)
    found = amalgamation.train_on_labels(base, None, data, how)  # type: ignore[arg-type]
    assert found.weights[0][0] > 0.6
    assert found.weights[1][1] > 0.6
    assert isinstance(found.network, LevelAmalgamation)
    with pytest.raises(InvalidValueError, match="labelled pictures, not on pairs"):
        amalgamation.train_on_pairs(base, None, all_pairs(stacks), PUBLISHED["label-scarce"])  # type: ignore[arg-type]


def test_the_command_ends_in_a_recipe_that_can_be_moved(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from diffeat.cli.main import app
    from diffeat.datasets.toyworld_spair import write_toyworld_pairs
    from diffeat.errors import UnknownNameError

    counts = {"trn": 3, "val": 2, "test": 2}
    root = write_toyworld_pairs(tmp_path / "toy", size=64, images=counts, pairs=2, classes=["dog"])
    views = ["--set", "views=[{}, {seed: 1}]", "--set", "fuse={kind: mean, grid: [16, 16]}", "--size", "64"]
    train = ["train", "amalgamation", "--root", str(root), "-r", "tiny-unet", *views, "--steps", "2"]
    for arguments in (["toyworld"], ["toyworld-parts", "--task", "segmentation", "--limit", "1"]):
        done = CliRunner().invoke(app, [*train, *arguments, "-o", str(tmp_path / "run")])
        assert done.exit_code == 0, (done.output, done.exception)
        moved = tmp_path / arguments[0]
        (tmp_path / "run").rename(moved)
        assert "view 2 0.5" in done.output
        (features,) = Extractor.from_recipe(moved / "recipe.yaml").extract([picture(0)])
        assert features.tensor.shape[1:] == (16, 16)
    done = CliRunner().invoke(app, [*train, "-o", str(tmp_path / "run"), "--task", "segmentatoin"])
    assert isinstance(done.exception, UnknownNameError)
    assert "segmentation" in str(done.exception)


def test_training_on_labels_and_the_recipe_that_follows(
    backbone: Any,
    tmp_path: Path,
) -> None:
    import numpy as np
    from PIL import Image

    from diffeat.datasets.labelled import MaskDataset, MaskSample
    from diffeat.training import train_on_labels

    samples = []
    for i in range(2):
        picture(i).save(tmp_path / f"{i}.png")
        labels = np.zeros((64, 64), np.uint8)
        labels[:, 32:] = 1
        Image.fromarray(labels).save(tmp_path / f"{i}-mask.png")
        samples.append(MaskSample(tmp_path / f"{i}.png", tmp_path / f"{i}-mask.png"))
    data = MaskDataset("halves", "train", tuple(samples), ("left", "right"))
    base = recipe(views=[{"name": "a"}, {"name": "b", "seed": 1}], fuse={"kind": "mean", "grid": [8, 8]})
    found = train_on_labels(base, backbone, data, AmalgamateSettings(steps=30, rate=1e-2, released=True, assigners=2))
    assert found.losses[-1] < found.losses[0]
    written = found.recipe(base, tmp_path / "a.safetensors")
    written.save(tmp_path / "recipe.yaml")
    out = Extractor(Recipe.load(tmp_path / "recipe.yaml"), backbone).extract(tmp_path / "0.png")[0]
    assert out.tensor.shape[0] == found.network.config.out_channels
    with pytest.raises(InvalidValueError, match="no views"):
        train_on_labels(recipe(), backbone, data)


def test_labels_lie_where_the_picture_does() -> None:
    labels = torch.arange(16).expand(8, 16)  # its column
    whole = labels_on_grid(labels, FrameSpec("squash", size=64).frame((16, 8)), (4, 4))
    assert whole.tolist() == [[0, 4, 8, 12]] * 4
    padded = labels_on_grid(labels, FrameSpec("pad", size=64).frame((16, 8)), (4, 4))
    assert padded[[0, 3]].eq(IGNORE).all()  # above and below the picture
    assert ((padded[1:3] // 4) == torch.arange(4)).all()
