"""Scores of masks that nothing was trained for, against counting by hand, and their sweeps."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.datasets.labelled import IGNORE, MaskDataset, MaskSample
from diffeat.errors import DiffeatError, InvalidValueError, UnknownNameError
from diffeat.extraction import Extractor
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.refinement import low_pass
from diffeat.report.results import write_result
from diffeat.report.sweep import write_sweep
from diffeat.studies.mask_sweeps import sweep_parts, sweep_words
from diffeat.tasks.masks import NONE, MaskScores, assigned, mask_counts
from diffeat.tasks.parts.evaluate import PartsOptions, score_parts
from diffeat.tasks.segmentation.boundary import outline_counts
from diffeat.tasks.words.evaluate import WordsOptions, evaluate_words, score_words


def test_the_assignment_has_the_largest_sum_of_iou() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, found = rng.integers(0, 4, (6, 7)), rng.integers(10, 14, (6, 7))
        truth[rng.random((6, 7)) < 0.1] = IGNORE
        named, counted = assigned(truth, found, 4), truth != IGNORE

        def iou(label: int, part: int, truth=truth, found=found, counted=counted) -> float:
            one, other = (truth == label) & counted, (found == part) & counted
            return (one & other).sum() / max(1, (one | other).sum())

        best = max(sum(iou(k, p) for k, p in enumerate(order)) for order in itertools.permutations(range(10, 14)))
        given = sum(iou(int(named[found == part][0]), part) for part in range(10, 14))
        assert given == pytest.approx(best)
    assert set(np.unique(assigned(np.zeros((2, 2), int), np.arange(4).reshape(2, 2), 3))) == {NONE, 0}


def test_counts_are_those_of_masks() -> None:
    rng = np.random.default_rng(1)
    truth, found = rng.integers(0, 3, (8, 8)), rng.integers(-1, 3, (8, 8))
    truth[0] = IGNORE
    counted = truth != IGNORE
    for label, (right, false, missed) in enumerate(mask_counts(truth, found, 3)):
        one, other = (truth == label) & counted, (found == label) & counted
        assert (right, false, missed) == ((one & other).sum(), (other & ~one).sum(), (one & ~other).sum())


def _data(folder: Path, count: int = 3) -> tuple[MaskDataset, list[np.ndarray]]:
    """Pictures of four quarters; the labels are 0, 1, 2 and 2."""
    truth = np.kron(np.array([[0, 1], [2, 2]], np.uint8), np.ones((32, 32), np.uint8))
    samples, labels = [], []
    for k in range(count):
        turned = np.rot90(truth, k).copy()
        colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)[turned]
        Image.fromarray(colours).save(folder / f"{k}.png")
        Image.fromarray(turned).save(folder / f"{k}-labels.png")
        samples.append(MaskSample(folder / f"{k}.png", folder / f"{k}-labels.png"))
        labels.append(turned)
    return MaskDataset("quarters", "val", tuple(samples), ("background", "cat", "dog")), labels


@pytest.fixture(scope="module")
def unet() -> Extractor:
    source = Extractor.from_recipe("tiny-unet")
    frame = {"mode": "squash", "size": [64, 64]}
    return source.of(source.recipe.replace(frame=frame, **{"trajectory.timesteps": [100], "trajectory.draws": 1}))


def test_parts_of_planted_features_are_the_classes(tmp_path: Path, unet: Extractor) -> None:
    data, labels = _data(tmp_path)
    frame = FrameSpec("squash", (64, 64)).frame((64, 64))
    maps = [
        FeatureMap({"x": torch.eye(3)[torch.from_numpy(truth[::4, ::4].astype(int))].permute(2, 0, 1)}, frame, "x", "r")
        for truth in labels
    ]
    result = score_parts(data, maps, PartsOptions(true_parts=True), unet)
    assert result.value > 90
    assert result.boundary > 90
    assert result.value > score_parts(data, maps, PartsOptions(method="kmeans", parts=1), unet).value
    low, high = result.interval()
    assert low <= result.value <= high
    halves = [score_parts(MaskDataset("quarters", "val", data.samples[a:b], data.classes), maps[a:b],
                          PartsOptions(true_parts=True), unet) for a, b in ((0, 1), (1, 3))]  # fmt: skip
    both = halves[0].merge(halves[1])
    assert both.value == result.value
    assert "assigned by IoU" in str(result)
    assert "mIoU" in write_result(result, tmp_path / "report").read_text()
    with pytest.raises(InvalidValueError, match="cannot be merged"):
        result.merge(score_parts(data, maps, PartsOptions(parts=2), unet))


def test_words_are_swept_by_layer_and_head_as_they_are_evaluated(tmp_path: Path, unet: Extractor) -> None:
    data, _ = _data(tmp_path, 2)
    layer = "up_blocks.2.attentions.0.transformer_blocks.0.attn2.map"
    options, tried = WordsOptions(background=0.6), {"timesteps": [100], "layers": [layer], "heads": True}
    result = sweep_words(unet.recipe, unet.of, data, options, tmp_path / "sweep", **tried)
    assert len(result.cells) == result.computed == 1 + unet.backbone.denoiser.get_submodule(layer[:-4]).heads
    assert sweep_words(unet.recipe, unet.of, data, options, tmp_path / "sweep", **tried).computed == 0
    for name in (layer, f"{layer}[1]"):
        alone = evaluate_words(data, unet, WordsOptions(background=0.6, layers=(name,)))
        assert result.cells[100, name].value == pytest.approx(alone.value)
    assert result.recipe.tasks["words"]["layers"] == [result.best.block]
    assert "F of outlines" in write_sweep(result, tmp_path / "sweep").read_text()
    with pytest.raises(InvalidValueError, match="leave --concepts out"):
        sweep_words(unet.recipe, unet.of, data, WordsOptions(concepts=True), tmp_path / "other", timesteps=[100])
    with pytest.raises(InvalidValueError, match=r"heads 0 to \d+, not 99"):
        score_words(data, unet, WordsOptions(), [f"{layer}[99]"])
    with pytest.raises(UnknownNameError, match="No text attention"):
        score_words(data, unet, WordsOptions(layers=("nowhere[1]",)))
    with pytest.raises(InvalidValueError, match="leave --prompts out"):
        evaluate_words(data, unet, WordsOptions(prompts="a cat"))


def test_parts_are_swept_by_block(tmp_path: Path, unet: Extractor) -> None:
    data, _ = _data(tmp_path, 2)
    blocks, options = ["up_blocks.1", "up_blocks.2"], PartsOptions(parts=3)
    result = sweep_parts(unet.recipe, unet.of, data, options, tmp_path / "s", timesteps=[100], blocks=blocks)
    alone = unet.of(unet.recipe.replace(activations=["up_blocks.2"]))
    expected = score_parts(data, alone.stream([s.image for s in data]), options, alone)
    assert result.cells[100, "up_blocks.2"].value == pytest.approx(expected.value)
    with pytest.raises(DiffeatError, match="reads self-attention"):
        sweep_parts(
            unet.recipe, unet.of, data, PartsOptions(method="merging"), tmp_path / "s", timesteps=[1], blocks=blocks
        )


def test_scores_add_up_and_outlines_are_told_without_classes() -> None:
    halves = np.array([[0] * 4 + [1] * 4] * 8)
    result = MaskScores(
        "d", "r", "h", ("a", "b", "c"), np.stack([mask_counts(halves, halves, 3)]),
        np.stack([outline_counts(halves, 1 - halves)]), PartsOptions(), "parts",
    )  # fmt: skip
    assert (result.value, result.boundary) == (100, 100)
    assert np.isnan(result.iou[2])
    assert [row[0] for row in result.table()[1]] == ["a", "b", "all"]


def test_an_interval_of_rare_classes_holds_the_number() -> None:
    rng = np.random.default_rng(0)
    tables, outlines = [], []
    for picture in range(20):  # class 1 + n occurs in picture n alone, and is missed
        true = np.zeros((8, 8), int)
        true[:2] = 1 + picture
        guess = np.where(rng.random((8, 8)) < 0.9, 0, 1 + picture)
        tables.append(mask_counts(guess, true, 21))
        outlines.append(outline_counts(guess, true))
    names = tuple(map(str, range(21)))
    result = MaskScores("d", "r", "h", names, np.stack(tables), np.stack(outlines), PartsOptions(), "parts")
    low, high = result.interval()
    assert low <= result.value <= high


def test_a_head_is_its_columns_and_outputs_of_heads_make_the_attention(unet: Extractor) -> None:
    module = "up_blocks.2.attentions.0.transformer_blocks.0.attn1"
    network = unet.backbone.denoiser.get_submodule(module)
    heads = network.heads
    names = [module, *(f"{module}.{part}" for part in "qkvo"), *(f"{module}.{part}[1]" for part in "qkvo")]
    found = unet.of(unet.recipe.replace(activations=names)).extract([np.zeros((64, 64, 3), np.uint8)])[0]
    for part in "qkvo":
        whole = found[f"{module}.{part}"]
        width = len(whole) // heads
        torch.testing.assert_close(found[f"{module}.{part}[1]"], whole[width : 2 * width])
    joined = network.to_out[0](found[f"{module}.o"].flatten(1).T).T.reshape(found[module].shape)
    torch.testing.assert_close(joined.detach(), found[module], atol=1e-5, rtol=1e-4)
    for name in (f"{module}.o[99]", "up_blocks.2.resnets.0.o", "up_blocks.2.resnets.0.o[0]"):
        with pytest.raises(UnknownNameError, match="No activation"):
            unet.of(unet.recipe.replace(activations=[name])).extract([np.zeros((64, 64, 3), np.uint8)])


def test_low_pass_keeps_what_is_coarse(unet: Extractor) -> None:
    y, _ = torch.meshgrid((torch.arange(16) + 0.5) / 16, (torch.arange(24) + 0.5) / 16, indexing="ij")
    for half_cycles in (1, 3, 8):  # cosines that are mirrored at the edges
        wave = torch.cos(torch.pi * half_cycles * y)[None].expand(1, 16, 24)
        torch.testing.assert_close(low_pass(wave, 2), wave * 2 ** -((half_cycles / 2 / 2) ** 2), atol=1e-5, rtol=1e-4)
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    recipe = unet.recipe.replace(activations=["up_blocks.1"])
    plain, smooth = (unet.of(recipe.replace(low_pass=cycles)).extract([picture])[0].tensor for cycles in (None, 1.5))
    torch.testing.assert_close(smooth, low_pass(plain, 1.5))
    assert recipe.hash != recipe.replace(low_pass=1.5).hash
    with pytest.raises(DiffeatError, match="low_pass"):
        recipe.replace(low_pass=0)
