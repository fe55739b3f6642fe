"""A convolution over joined maps: loss and steps against a dense computation, the recipe that uses it, the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.datasets.registry import open_dataset
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction import Extractor, Joined, Reading, Recipe, load_source
from diffeat.extraction.joins.convolution import load_convolution, new_convolution
from diffeat.geometry import FrameSpec
from diffeat.tasks.correspondence import get_protocol
from diffeat.training.convolution import ConvolutionSettings, pair_loss, parts_of, train_convolution
from diffeat.training.hyperfeatures.maps import PictureMaps
from diffeat.training.hyperfeatures.run import TrainingData

GRID = 16


def dense_loss(network: nn.Conv2d, maps: list[Tensor], points: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
    """All cosines of all cells, cross-entropy of the rows that belong to points, both ways."""
    cells, rows = [], []
    for m, p, (width, height) in zip(maps, points, sizes, strict=True):
        h, w = m.shape[1:]
        x = np.round(np.clip(p[:, 0].numpy() * (w / width), 0, w - 1))
        y = np.round(np.clip(p[:, 1].numpy() * (h / height), 0, h - 1))
        cells.append(torch.from_numpy(y * w + x).long())
        flat = network(m[None]).flatten(2)[0].T
        rows.append(flat / flat.norm(dim=1, keepdim=True))
    logits = rows[0] @ rows[1].T / 0.07
    forth = F.cross_entropy(logits[cells[0]], cells[1])
    return (forth + F.cross_entropy(logits.T[cells[1]], cells[0])) / 2


def test_the_loss_is_the_dense_one() -> None:
    generator = torch.Generator().manual_seed(0)
    network = new_convolution(6, 1)
    sizes = [(50, 40), (31, 64)]
    frames = [FrameSpec("squash", size=64).frame(s) for s in sizes]
    maps = [torch.randn(6, GRID, GRID, generator=generator) for _ in range(2)]
    points = [torch.rand(5, 2, generator=generator, dtype=torch.float64) * torch.tensor(s) for s in sizes]
    points[0][0] = torch.tensor([49.9, 40.0])  # beyond the last cell's centre: moved inside
    stacks = [PictureMaps((m[None],), f) for m, f in zip(maps, frames, strict=True)]
    found = pair_loss(network, stacks[0], stacks[1], points[0], points[1])
    assert torch.allclose(found, dense_loss(network, maps, points, sizes), atol=1e-6)


def test_channels_of_one_and_of_several_models() -> None:
    assert new_convolution(8, 1).weight.shape == (8, 8, 3, 3)
    assert new_convolution(9, 3).weight.shape == (4, 9, 3, 3)
    assert torch.equal(new_convolution(8, 1, seed=3).weight, new_convolution(8, 1, seed=3).weight)
    assert new_convolution(8, 1).bias is None


@pytest.fixture(scope="module")
def recipe(head_model: Path) -> Reading:
    return Reading.load("gdf-sd15-spair").replace(
        name="small", model=str(head_model), activations=["up_blocks.1", "up_blocks.2"], prompt="a thing",
        **{"frame.size": 64, "fuse.grid": [GRID, GRID]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(head_world: Path) -> TrainingData:
    training = open_dataset("toyworld", head_world, "train", kind="pairs").limited(4)
    return TrainingData(
        training, open_dataset("toyworld", head_world, "val", kind="pairs").limited(2), get_protocol("gdf")
    )


def train(recipe: Recipe, data: TrainingData, out: Path, steps: int) -> Any:
    extractors = [Extractor.from_recipe(part.replace(fuse=None), device="cpu") for part in parts_of(recipe)]
    return train_convolution(recipe, extractors, data, out, ConvolutionSettings(steps=steps, every=2))


def test_steps_are_those_of_a_plain_loop_and_a_stopped_run_ends_alike(
    recipe: Reading, data: TrainingData, tmp_path: Path
) -> None:
    whole = train(recipe, TrainingData(data.pairs), tmp_path / "whole", 4)
    train(recipe, TrainingData(data.pairs), tmp_path / "parts", 2)
    (tmp_path / "parts" / "recipe.yaml").unlink()
    train(recipe, TrainingData(data.pairs), tmp_path / "parts", 4)
    trained = Joined.load(whole.recipe)
    assert trained.network is not None
    found = load_convolution(trained.network).weight
    again = Joined.load(tmp_path / "parts" / "recipe.yaml").network
    assert again is not None
    assert torch.equal(found, load_convolution(again).weight)

    source = load_source(recipe, device="cpu")
    network = new_convolution(found.shape[1], 1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=0.01)
    order = np.random.RandomState(0).permutation(len(data.pairs))
    for number in order[:4]:
        pair = data.pairs[int(number)]
        one, other = source.extract([pair.source, pair.target])
        points = [torch.tensor(p, dtype=torch.float64) for p in (pair.source_points, pair.target_points)]
        loss = dense_loss(network, [one.tensor, other.tensor], points, [one.frame.original, other.frame.original])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.allclose(found, network.weight, atol=2e-5)

    (feature,) = load_source(trained, device="cpu").extract([data.pairs[0].source])
    (plain,) = source.extract([data.pairs[0].source])
    expected = F.conv2d(plain.tensor[None], found, padding=1)[0]
    assert torch.allclose(feature.tensor, expected, atol=1e-4)
    assert feature.provenance["prompt"] == "a thing"


@pytest.mark.slow
def test_several_models_and_weights_that_do_not_fit(recipe: Reading, data: TrainingData, tmp_path: Path) -> None:
    other = recipe.replace(activations=["up_blocks.3"], seed=1)
    outcome = train(Joined.from_dict({"parts": [recipe, other], "name": "two"}), data, tmp_path / "two", 2)
    assert 0 <= outcome.validation.value <= 100
    trained = Joined.load(outcome.recipe)
    source = load_source(trained, device="cpu")
    (feature,) = source.extract([data.pairs[0].source])
    weights = load_convolution(trained.network).weight
    assert feature.tensor.shape == (weights.shape[1] // 2, GRID, GRID)
    plain = trained.replace(join="concat", network=None)
    assert plain.hash != trained.hash
    assert load_source(plain, device="cpu").fingerprint != source.fingerprint
    narrow = load_source(trained.replace(parts=trained.parts[:1]), device="cpu")
    with pytest.raises(ModelError, match="channels"):
        narrow.extract([data.pairs[0].source])
    with pytest.raises(ModelError, match="SHA-256"):
        load_convolution(trained.network.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(InvalidValueError, match="belong together"):
        trained.replace(network=None)
    with pytest.raises(InvalidValueError, match="'convolution'"):
        parts_of(trained)
    with pytest.raises(InvalidValueError, match="something else"):
        parts_of(Recipe.load("baseline:rgb"))


def test_the_command_ends_in_a_recipe_that_eval_takes(recipe: Reading, head_world: Path, tmp_path: Path) -> None:
    recipe.replace(tasks={"correspondence": {"protocol": "gdf"}}).save(tmp_path / "r.yaml")
    where = ["toyworld", "--root", str(head_world), "--limit", "2"]
    out = tmp_path / "run"
    trained = CliRunner().invoke(
        app,
        ["train", "convolution", *where, "-r", str(tmp_path / "r.yaml"), "--steps", "2", "--every", "1", "--out",
         str(out), "--validation-limit", "2"],
    )  # fmt: skip
    assert trained.exit_code == 0, (trained.output, trained.exception)
    assert "best at step" in trained.output
    assert "protocol gdf: " in trained.output
    out = out.rename(tmp_path / "moved")  # the folder can be moved as a whole
    scored = CliRunner().invoke(app, ["eval", *where, "-r", str(out / "recipe.yaml")])
    assert scored.exit_code == 0, (scored.output, scored.exception)
    assert "(gdf: distance" in scored.output
