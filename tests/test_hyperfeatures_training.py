"""Losses, examples and the training of an aggregation network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffeat.datasets.pairs import PairDataset
from diffeat.datasets.registry import open_dataset
from diffeat.errors import DatasetError, InvalidValueError, NonFiniteError
from diffeat.extraction import Extractor
from diffeat.extraction.joins.aggregation import AggregationConfig
from diffeat.tasks.correspondence import get_protocol
from diffeat.training.hyperfeatures.examples import Examples
from diffeat.training.hyperfeatures.loss import keypoint_loss, nearest_cells, position_loss
from diffeat.training.hyperfeatures.maps import PictureMaps
from diffeat.training.hyperfeatures.prepare import explicit, prepare
from diffeat.training.hyperfeatures.run import Outcome, Storage, TrainingData, train_hyperfeatures
from diffeat.training.hyperfeatures.train import (
    DescribedPair,
    PairLoss,
    TrainSettings,
    new_network,
    pair_loss,
    train_network,
)
from diffeat.training.loop import read_log
from support.hyperfeatures import PROTOCOL, error, trained_maps


def test_rows_only_equal_the_full_matrix() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(16, 7, 9, generator=generator, requires_grad=True) for _ in range(2))
    cells = torch.tensor([3, 40, 62, 40]), torch.tensor([0, 11, 12, 60])
    full = F.normalize(a.flatten(1), dim=0).T @ F.normalize(b.flatten(1), dim=0) / 0.07
    rows = -full.log_softmax(1)[cells[0], cells[1]].mean()
    columns = -full.log_softmax(0)[cells[0], cells[1]].mean()
    wanted = (rows + columns) / 2
    found = keypoint_loss(a, b, *cells)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    for x, y in zip(torch.autograd.grad(found, (a, b)), torch.autograd.grad(wanted, (a, b)), strict=True):
        assert error(x, y) <= 1e-5


def test_position_loss_is_the_distance_of_what_is_found() -> None:
    one_hot = torch.eye(6 * 8).reshape(48, 6, 8)
    points = torch.tensor([[2.0, 1.0], [5.0, 4.0]])
    assert position_loss(one_hot, one_hot, points, points, 1e-3).item() == pytest.approx(0, abs=1e-6)
    moved = position_loss(one_hot, one_hot, points, points + torch.tensor([3.0, -4.0]), 1e-3)
    assert moved.item() == pytest.approx(5 / 8)


def test_a_training_ends_in_a_recipe_that_extracts_what_was_trained(
    head_training, head_extractor: Extractor, head_world: Path
) -> None:
    assert head_training.trained.step in (15, 30)
    counts = [len(open_dataset("toyworld", head_world, split).images()) for split in ("trn", "val")]
    # Training pictures as they are and mirrored, validation pictures: each once, whatever the number of pairs.
    assert head_training.extracted == head_training.pictures == 2 * counts[0] + counts[1]
    picture = open_dataset("toyworld", head_world, "test").images()[0]
    (found,) = Extractor.from_recipe(head_training.recipe, device="cpu").extract([picture])
    assert list(found.activations) == ["fused"]
    reader, pairs = (
        Extractor(trained_maps(head_training), head_extractor.backbone),
        open_dataset("toyworld", head_world, "test"),
    )
    with prepare(reader, [pairs], head_training.recipe.parent / "again") as ready, torch.no_grad():
        whole = head_training.trained.network([layer[None] for layer in ready.source.maps(picture).layers])[0]
    assert error(found.tensor, whole) <= 1e-3  # other batches round otherwise, and random weights amplify it


def test_the_loss_falls(head_training) -> None:
    rows = read_log(head_training.recipe.parent / "log.csv")
    loss = np.array([float(r["loss"]) for r in rows])
    assert len(rows) == 30
    assert loss[-10:].mean() < loss[:10].mean()
    assert all(r["dense"] for r in rows)
    assert [r["step"] for r in rows if r["validation"]] == ["15", "30"]


def test_an_interrupted_training_ends_in_the_same_weights(head_extractor, head_world: Path, tmp_path: Path) -> None:
    pairs = open_dataset("toyworld", head_world, "trn")
    settings = TrainSettings(steps=8, validate_every=3, flip=0.5, projection=32, bottleneck=32)
    run = lambda out, s: train_hyperfeatures(  # noqa: E731
        head_extractor, TrainingData(pairs), out, s, storage=Storage(tmp_path / "features"), force=True
    )
    run(tmp_path / "whole", settings)
    run(tmp_path / "parts", replace(settings, steps=3))
    run(tmp_path / "parts", settings)
    one, other = ((tmp_path / n / "weights" / "model.safetensors").read_bytes() for n in ("whole", "parts"))
    assert one == other
    drop = lambda n: [r.rsplit(",", 2)[0] for r in (tmp_path / n / "log.csv").read_text().splitlines()]  # noqa: E731
    assert drop("whole") == drop("parts")
    with pytest.raises(InvalidValueError, match=r"lr \(0.001 there, 0.01 now\)"):
        run(tmp_path / "parts", replace(settings, lr=0.01))


def test_features_that_do_not_fit_are_extracted_again_to_the_same_effect(
    head_extractor, head_world, tmp_path: Path
) -> None:
    pairs = open_dataset("toyworld", head_world, "trn")
    losses, settings = [], TrainSettings(steps=1, projection=32, bottleneck=32)
    for name, limit in (("stored", None), ("fresh", 10)):
        storage = Storage(dtype="float32", limit=limit)  # float16 would round what is stored, and only that
        outcome = train_hyperfeatures(head_extractor, TrainingData(pairs), tmp_path / name, settings, storage=storage)
        assert outcome.stored is (limit is None)
        losses.append([float(row["loss"]) for row in read_log(tmp_path / name / "log.csv")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_an_empty_training_set_is_reported_before_anything_is_extracted(head_extractor, tmp_path: Path) -> None:
    empty = TrainingData(PairDataset("mine", "trn", tmp_path, ()))
    with pytest.raises(DatasetError, match="training set is empty"):
        train_hyperfeatures(head_extractor, empty, tmp_path / "out", TrainSettings())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("broken", [True, False], ids=["features", "training"])
def test_a_loss_that_is_no_number_ends_the_training(
    broken: bool, head_extractor, head_world: Path, tmp_path: Path
) -> None:
    pairs = open_dataset("toyworld", head_world, "trn")
    with prepare(head_extractor, [pairs], tmp_path) as ready:
        source = Spoiled(ready.source) if broken else ready.source
        config = AggregationConfig(("a",) * 4, ready.channels, (4, 2), 5, projection=32, bottleneck=32)
        made = new_network(config, 0)
        words = "features hold NaN" if broken else "learning rate below 1e"
        with pytest.raises(NonFiniteError, match=words):
            train_network(made, Examples(pairs, source, 0), TrainSettings(lr=1e30, steps=50), tmp_path / "out")


class Spoiled:
    def __init__(self, source) -> None:
        self.source = source

    def maps(self, path: Path) -> PictureMaps:
        found = self.source.maps(path)
        return PictureMaps(tuple(layer * torch.nan for layer in found.layers), found.frame)


def test_mirrored_examples_show_the_same_points(head_extractor, head_world: Path, tmp_path: Path) -> None:
    from PIL import Image

    pairs = open_dataset("toyworld", head_world, "trn")
    seen: list[Path] = []
    with prepare(head_extractor, [pairs], tmp_path, mirror=pairs) as ready:

        class Spy:
            def maps(self, path: Path) -> PictureMaps:
                seen.append(path)
                return ready.source.maps(path)

        plain, turned = (Examples(pairs, Spy(), 0, flip, ready.mirrored)[0] for flip in (0.0, 1.0))
    assert turned.name == plain.name + " mirrored"
    for before, after, path, copy in zip(plain.points, turned.points, seen[:2], seen[2:], strict=True):
        with Image.open(path) as one, Image.open(copy) as other:
            for (x, y), (x2, y2) in zip(before.round().long().tolist(), after.round().long().tolist(), strict=True):
                assert one.convert("RGB").getpixel((x, y)) == other.convert("RGB").getpixel((x2, y2))


def unlike(pair: DescribedPair) -> torch.Tensor:
    """Makes the descriptors of both pictures alike on the whole, without any point."""
    return (pair.source.mean((1, 2)) - pair.target.mean((1, 2))).square().mean()


def test_a_loss_of_ones_own_needs_no_points_and_goes_on(head_extractor, head_world: Path, tmp_path: Path) -> None:
    known = open_dataset("toyworld", head_world, "trn")
    pairs = replace(known, pairs=tuple(replace(p, source_points=(), target_points=()) for p in known.pairs[:4]))
    settings = TrainSettings(steps=12, validate_every=6, lr=1e-2, projection=32, bottleneck=32)

    def run(steps: int, loss: PairLoss | None) -> Outcome:
        return train_hyperfeatures(
            head_extractor, TrainingData(pairs), tmp_path, replace(settings, steps=steps), loss=loss, force=True
        )

    run(6, unlike)
    run(12, unlike)
    rows = read_log(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == [str(i + 1) for i in range(12)]
    losses = [float(row["loss"]) for row in rows]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    with pytest.raises(DatasetError, match="training set is empty"):
        run(12, None)
    with pytest.raises(InvalidValueError, match="loss"):
        run(12, lambda pair: pair.source.mean())


def test_a_loss_of_ones_own_sees_descriptors_and_points_in_cells(head_extractor, head_world, tmp_path: Path) -> None:
    pairs = open_dataset("toyworld", head_world, "trn")
    with prepare(head_extractor, [pairs], tmp_path) as ready:
        config = AggregationConfig(("a",) * 4, ready.channels, (4, 2), 5, projection=32, bottleneck=32)
        made, example = new_network(config, 0), Examples(pairs, ready.source, 0)[0]
        settings, seen = TrainSettings(), []

        def published(pair: DescribedPair) -> torch.Tensor:
            seen.append(pair)
            cells = [
                nearest_cells(p, d.shape[1:]) for p, d in zip(pair.points, (pair.source, pair.target), strict=True)
            ]
            return keypoint_loss(pair.source, pair.target, *cells)

        own, parts = pair_loss(made, example, settings, published)
        expected, _ = pair_loss(made, example, settings)
    assert own.item() == pytest.approx(expected.item())
    assert parts == {}
    assert len(seen[0].points[0]) == len(example.points[0])


def test_texts_of_a_protocol_are_trained_with(head_extractor: Extractor) -> None:
    told = head_extractor.recipe.replace(template="a photo of a {}")
    dift = get_protocol("dift")
    assert (dift.prompts(None, told), dift.prompts("", told), PROTOCOL.prompts(None, told)) == ("category", "", None)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"steps": 0}, "steps"), ({"flip": 1.5}, "flip"), ({"lr": 0}, "learning rate"), ({"dense": -1}, "dense")],
    ids=str,
)
def test_settings_out_of_range(change: dict, word: str) -> None:
    with pytest.raises(InvalidValueError, match=word):
        TrainSettings(**change)


def test_a_fusion_that_is_there_is_left_out_of_the_maps() -> None:
    assert explicit(Extractor.from_recipe("hyperfeatures-tiny")).recipe.fuse is None
