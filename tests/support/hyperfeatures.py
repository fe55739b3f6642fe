"""Aggregation networks, their maps, and one short training that several files of tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffeat.datasets.registry import open_dataset
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.extraction import Extractor, Recipe
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.tasks.correspondence import get_protocol
from diffeat.training.hyperfeatures.recipes import network_of, recipe_of
from diffeat.training.hyperfeatures.run import TrainingData, train_hyperfeatures
from diffeat.training.hyperfeatures.train import TrainSettings, new_network
from tiny.pipelines import build

CONFIG = AggregationConfig(("a", "b", "c"), (8, 32, 12), (9, 4, 0), 10, projection=32, bottleneck=32)
PROTOCOL = get_protocol("spair")


def network(config: AggregationConfig = CONFIG, seed: int = 0) -> AggregationNetwork:
    made = new_network(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.mixing_weights.copy_(torch.randn(made.mixing_weights.shape, generator=generator))
    return made.eval()


def maps(batch: int = 2, grids=((4, 6), (8, 12), (16, 9)), config: AggregationConfig = CONFIG) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, len(config.steps), c, *g, generator=generator)
        for c, g in zip(config.channels, grids, strict=True)
    ]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def trained_maps(head_training) -> Recipe:
    loaded = Recipe.load(head_training.recipe)
    return recipe_of(loaded, network_of(loaded).config)


@pytest.fixture(scope="session")
def head_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    build("sd15").save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def head_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toyworld_pairs(
        tmp_path_factory.mktemp("world"),
        size=64,
        classes=["cat", "car"],
        images={"trn": 4, "val": 3, "test": 3},
        pairs=6,
    )


@pytest.fixture(scope="session")
def head_recipe(head_model: Path) -> Recipe:
    return Recipe.load("hyperfeatures-tiny").replace(
        model=str(head_model),
        fuse=None,
        activations=["up_blocks.*.resnets.1.increment"],
        **{"frame.size": 64, "trajectory.steps": 5, "trajectory.save": [4, 2]},
    )


@pytest.fixture(scope="session")
def head_extractor(head_recipe: Recipe) -> Extractor:
    return Extractor.from_recipe(head_recipe, device="cpu")


@pytest.fixture(scope="session")
def head_training(head_extractor: Extractor, head_world: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("training")
    settings = TrainSettings(steps=30, validate_every=15, flip=0.5, dense=0.5, projection=32, bottleneck=32)
    train, val = (open_dataset("toyworld", head_world, split) for split in ("trn", "val"))
    return train_hyperfeatures(head_extractor, TrainingData(train, val, PROTOCOL), out, settings)
