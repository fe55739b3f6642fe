"""Recipes with trained weights: what they fit, read and cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffeat.datasets.registry import open_dataset
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction import Extractor, Recipe
from diffeat.extraction.joins.aggregation_files import save_aggregation
from diffeat.training.hyperfeatures.prepare import prepare
from diffeat.training.hyperfeatures.recipes import network_of
from diffeat.training.hyperfeatures.run import TrainingData, train_hyperfeatures
from diffeat.training.hyperfeatures.train import TrainSettings
from support.hyperfeatures import error, network
from tiny.pipelines import build


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trajectory.save": [4, 1]}, ["steps 2 are in the weights alone", "steps 1 in the recipe alone"]),
        ({"trajectory.save": [2, 4]}, ["another order"]),
        ({"trajectory.steps": 6}, ["5 steps", "has 6"]),
        ({"activations": ["up_blocks.1.resnets.1.increment"]}, ["up_blocks.0.resnets.1.increment", "weights alone"]),
        ({"fuse.weights": None}, ["no trained weights", "diffeat train hyperfeatures"]),
    ],
    ids=["save", "order", "count", "layers", "none"],
)
def test_weights_for_something_else_are_refused(change: dict, words: list[str], head_training, head_extractor) -> None:
    with pytest.raises(InvalidValueError) as caught:
        Extractor(Recipe.load(head_training.recipe).replace(**change), head_extractor.backbone)
    assert all(word in str(caught.value) for word in words)


def test_the_hash_knows_the_weights_wherever_they_lie(head_training, head_extractor, tmp_path: Path) -> None:
    import shutil

    moved = shutil.copytree(head_training.recipe.parent, tmp_path / "moved")
    one, other = Recipe.load(head_training.recipe), Recipe.load(moved / "recipe.yaml")
    assert one.hash == other.hash
    changed = network_of(other)
    with torch.no_grad():
        changed.mixing_weights[0] += 1
    save_aggregation(changed, moved / "weights")
    with pytest.raises(ModelError, match="SHA-256"):
        Extractor(other, head_extractor.backbone)
    accepted = (moved / "recipe.yaml").read_text().split("    sha256")[0]
    (moved / "recipe.yaml").write_text(accepted)
    assert Recipe.load(moved / "recipe.yaml").hash != one.hash


@pytest.mark.parametrize(
    ("name", "activation"), [("flux", "transformer_blocks.*"), ("sd3", "*.adaln"), ("ddpm", "up_blocks.*")]
)
def test_any_backbone_and_any_activations(name: str, activation: str, tmp_path: Path, head_world: Path) -> None:
    from diffeat.backbones import Backbone
    from diffeat.training.hyperfeatures.prepare import explicit, network_config

    backbone = Backbone.from_pipeline(build(name), name=name)
    plain = Recipe.from_dict(
        {
            "model": name,
            "activations": [activation],
            "frame": {"mode": "squash", "size": 64},
            "trajectory": {"kind": "inversion", "steps": 4, "save": [3, 1]},
        }
    )
    reader = explicit(Extractor(plain, backbone))
    picture = open_dataset("toyworld", head_world, "test").images()[0]
    with prepare(reader, [open_dataset("toyworld", head_world, "test")], tmp_path / "maps") as ready:
        made = network(network_config(reader, ready.channels, 32, 32))
        save_aggregation(made, str(tmp_path / "weights"))
        layers = ready.source.maps(picture).layers
    fuse = {"kind": "hyperfeatures", "weights": {"source": str(tmp_path / "weights")}}
    (found,) = Extractor(reader.recipe.replace(fuse=fuse), backbone).extract([picture])
    with torch.no_grad():
        assert error(found.tensor, made([layer[None] for layer in layers])[0]) <= 1e-4


def test_a_head_over_forward_noise(head_extractor, head_world: Path, tmp_path: Path) -> None:
    plain = head_extractor.recipe.replace(trajectory={"kind": "noise", "timesteps": [10, 200], "draws": 2})
    pairs = open_dataset("toyworld", head_world, "trn")
    outcome = train_hyperfeatures(
        Extractor(plain, head_extractor.backbone),
        TrainingData(pairs),
        tmp_path,
        TrainSettings(steps=2, projection=32, bottleneck=32),
    )
    (found,) = Extractor(Recipe.load(outcome.recipe), head_extractor.backbone).extract([pairs[0].source])
    assert found.tensor.shape == (32, 8, 8)
