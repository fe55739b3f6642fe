"""The aggregation network, its files, its training and what is left of it after pruning."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffeat.activations import Catalogue
from diffeat.datasets.pairs import PairDataset
from diffeat.datasets.registry import open_dataset
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.errors import DatasetError, DiffeatError, InvalidValueError, ModelError, NonFiniteError
from diffeat.extraction import Extractor, Recipe
from diffeat.extraction.joins import aggregation
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.tasks.correspondence import get_protocol
from diffeat.training.hyperfeatures.examples import Examples
from diffeat.training.hyperfeatures.logs import read_log
from diffeat.training.hyperfeatures.loss import keypoint_loss, position_loss
from diffeat.training.hyperfeatures.maps import PictureMaps
from diffeat.training.hyperfeatures.prepare import prepare
from diffeat.training.hyperfeatures.prune import curve, keep, keep_layer, keep_step, keep_strongest, ranked
from diffeat.training.hyperfeatures.recipes import denoiser_calls, network_of, recipe_of
from diffeat.training.hyperfeatures.run import train_hyperfeatures, training_recipe
from diffeat.training.hyperfeatures.train import STATE, HeadTrainer, TrainSettings, new_network
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


# ---- the network


@pytest.mark.parametrize("grid", [(8, 12), (3, 5), (20, 7), None])
@torch.no_grad()
def test_projecting_before_resizing_changes_nothing(grid) -> None:
    made, values = network(), maps()
    wanted = grid or (16, 9)
    resized = [F.interpolate(m.flatten(0, 1), size=wanted, mode="bilinear").unflatten(0, m.shape[:2]) for m in values]
    assert error(made(values, grid), made(resized, wanted)) <= 1e-5


@torch.no_grad()
def test_parts_of_the_steps_add_up() -> None:
    made, values = network(), maps()
    for parts in ([[0], [1], [2]], [[2, 0], [1]]):
        total = sum(made([m[:, p] for m in values], (8, 8), p) for p in parts)
        assert error(total, made(values, (8, 8))) <= 1e-5


def test_recomputing_in_the_backward_pass_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = []
    for limit in (1 << 40, 0):
        monkeypatch.setattr(aggregation, "_RECOMPUTE_ABOVE", limit)
        made = network().train()
        made(maps()).square().sum().backward()
        grads.append([p.grad for p in made.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*grads, strict=True))


@torch.no_grad()
def test_a_pair_that_is_switched_off_counts_for_nothing() -> None:
    made, values = network(), maps()
    off = [(0, 1), (2, 2)]
    for s, k in off:
        made.mixing_weights[3 * s + k] = -torch.inf
    kept = [(s, k) for s in range(3) for k in range(3) if (s, k) not in off]
    shares = made.shares
    assert shares.sum().item() == pytest.approx(1)
    bottlenecks = [b[0] for b in made.bottleneck_layers]
    wanted = sum(shares[s, k] * bottlenecks[k](values[k][:, s], (8, 8)) for s, k in kept)
    assert error(made(values, (8, 8)), wanted) <= 1e-5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda v: v[:2], ["3 layers", "2"]),
        (lambda v: [v[0][:, :2], *v[1:]], ["'a'", "3 steps"]),
        (lambda v: [v[0], v[2], v[1]], ["'b'", "32 channels"]),
    ],
    ids=["layers", "steps", "channels"],
)
def test_maps_of_another_network_are_refused(wrong, words: list[str]) -> None:
    with pytest.raises(InvalidValueError) as caught:
        network()(wrong(maps()))
    assert all(word in str(caught.value) for word in words)


# ---- files


def test_saved_and_loaded(tmp_path: Path) -> None:
    made = network()
    made.save_pretrained(tmp_path / "n")
    again = AggregationNetwork.from_pretrained(tmp_path / "n")
    assert again.config == made.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), made.parameters(), strict=True))


def published(path: Path, **changes) -> Path:
    made = network()
    data = {
        "step": 5000,
        "config": {
            "model_id": "x/y", "projection_dim": 32, "save_timestep": [9, 4, 0], "num_timesteps": 10,
            "diffusion_mode": "generation", "prompt": "never to be used",
        },
        "aggregation_network": dict(made.state_dict()),
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
    }  # fmt: skip
    data.update(changes)
    torch.save(data, path)
    return path


def test_a_published_checkpoint_tells_its_shape_and_nothing_of_the_run(tmp_path: Path) -> None:
    state = {**network().state_dict(), "logit_scale": torch.tensor(2.6)}
    found = AggregationNetwork.from_pretrained(published(tmp_path / "n.pt", aggregation_network=state))
    assert found.config.channels == CONFIG.channels
    assert found.config.steps == (9, 4, 0)
    assert found.config.count == 10
    assert torch.equal(found.mixing_weights, network().mixing_weights)


class Sneaky:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": Sneaky()}, ["not a plain state dict", "run code"]),
        ({"aggregation_network": {"mixing_weights": [1, 2]}}, ["no 'aggregation_network' state dict"]),
        ({"aggregation_network": {"other": torch.ones(3)}}, ["no aggregation network"]),
        ({"config": {"save_timestep": [1, 2]}}, ["2 save steps", "mixes 3"]),
        ({"aggregation_network": {**network().state_dict(), "mixing_weights": torch.ones(8)}}, ["8 mixing weights"]),
        ({"aggregation_network": {**network().state_dict(), "more": torch.ones(8)}}, ["1 are unknown", "'more'"]),
        (
            {"aggregation_network": {**network().state_dict(), "mixing_weights": torch.full((9,), torch.nan)}},
            ["NaN", "mixing_weights"],
        ),
    ],
    ids=["code", "no tensors", "no network", "steps", "mixing", "unknown", "nan"],
)
def test_damaged_checkpoints_are_refused(changes, words: list[str], tmp_path: Path, capsys) -> None:
    with pytest.raises(DiffeatError) as caught:
        AggregationNetwork.from_pretrained(published(tmp_path / "n.pt", **changes))
    assert all(word in str(caught.value) for word in words)
    assert "must not run" not in capsys.readouterr().out


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"not a pickle")
    with (tmp_path / "b.pt").open("wb") as handle:
        pickle.dump([1, 2], handle)
    for name in ("a.pt", "b.pt", "none"):
        with pytest.raises(ModelError, match=name):
            AggregationNetwork.from_pretrained(tmp_path / name)


# ---- losses


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
    for radius in (None, 2):
        assert position_loss(one_hot, one_hot, points, points, 1e-3, radius).item() == pytest.approx(0, abs=1e-6)
        moved = position_loss(one_hot, one_hot, points, points + torch.tensor([3.0, -4.0]), 1e-3, radius)
        assert moved.item() == pytest.approx(5 / 8)


# ---- training


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    build("sd15").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toyworld_pairs(
        tmp_path_factory.mktemp("world"),
        size=64,
        classes=["cat", "car"],
        images={"trn": 4, "val": 3, "test": 3},
        pairs=6,
    )


@pytest.fixture(scope="module")
def recipe(model: Path) -> Recipe:
    return Recipe.load("hyperfeatures-tiny").replace(
        model=str(model),
        fuse=None,
        activations=["up_blocks.*.resnets.1.increment"],
        **{"frame.size": 64, "trajectory.steps": 5, "trajectory.save": [4, 2]},
    )


@pytest.fixture(scope="module")
def extractor(recipe: Recipe) -> Extractor:
    return Extractor.from_recipe(recipe, device="cpu")


@pytest.fixture(scope="module")
def trained(extractor: Extractor, world: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("training")
    settings = TrainSettings(steps=30, validate_every=15, flip=0.5, dense=0.5, window=0.5)
    train, val = (open_dataset("toyworld", world, split) for split in ("trn", "val"))
    return train_hyperfeatures(
        extractor, train, out, settings, validation=val, protocol=PROTOCOL, projection=32, bottleneck=32
    )


def test_a_training_ends_in_a_recipe_that_extracts_what_was_trained(trained, extractor: Extractor, world: Path) -> None:
    assert trained.trained.step in (15, 30)
    counts = [len(open_dataset("toyworld", world, split).images()) for split in ("trn", "val")]
    # Training pictures as they are and mirrored, validation pictures: each once, whatever the number of pairs.
    assert trained.extracted == trained.pictures == 2 * counts[0] + counts[1]
    picture = open_dataset("toyworld", world, "test").images()[0]
    (found,) = Extractor.from_recipe(trained.recipe, device="cpu").extract([picture])
    assert list(found.activations) == ["hyperfeatures"]
    with prepare(Extractor(trained_maps(trained), extractor.backbone), [open_dataset("toyworld", world, "test")],
                 trained.recipe.parent / "again") as ready, torch.no_grad():  # fmt: skip
        whole = trained.trained.network([layer[None] for layer in ready.source.maps(picture).layers])[0]
    assert error(found.tensor, whole) <= 1e-3  # other batches round otherwise, and random weights amplify it


def trained_maps(trained) -> Recipe:
    loaded = Recipe.load(trained.recipe)
    return recipe_of(loaded, network_of(loaded).config)


def test_the_loss_falls(trained) -> None:
    rows = read_log(trained.recipe.parent / "log.csv")
    loss = np.array([float(r["loss"]) for r in rows])
    assert len(rows) == 30
    assert loss[-10:].mean() < loss[:10].mean()
    assert all(r["dense"] and r["window"] for r in rows)
    assert [r["step"] for r in rows if r["validation"]] == ["15", "30"]


def test_an_interrupted_training_ends_in_the_same_weights(extractor, world: Path, tmp_path: Path) -> None:
    pairs = open_dataset("toyworld", world, "trn")
    settings = TrainSettings(steps=8, validate_every=3, flip=0.5)
    run = lambda out, s: train_hyperfeatures(  # noqa: E731
        extractor, pairs, out, s, projection=32, bottleneck=32, features=tmp_path / "features"
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


def test_features_that_do_not_fit_are_extracted_again_to_the_same_effect(extractor, world, tmp_path: Path) -> None:
    pairs = open_dataset("toyworld", world, "trn")
    losses = []
    for name, limit in (("stored", None), ("fresh", 10)):
        outcome = train_hyperfeatures(
            extractor, pairs, tmp_path / name, TrainSettings(steps=1), projection=32, bottleneck=32, limit=limit
        )
        assert outcome.stored is (limit is None)
        losses.append([float(row["loss"]) for row in read_log(tmp_path / name / "log.csv")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_an_empty_training_set_is_reported_before_anything_is_extracted(extractor, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="training set is empty"):
        train_hyperfeatures(extractor, PairDataset("mine", "trn", tmp_path, ()), tmp_path / "out", TrainSettings())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("broken", [True, False], ids=["features", "training"])
def test_a_loss_that_is_no_number_ends_the_training(broken: bool, extractor, world: Path, tmp_path: Path) -> None:
    pairs = open_dataset("toyworld", world, "trn")
    with prepare(extractor, [pairs], tmp_path) as ready:
        source = Spoiled(ready.source) if broken else ready.source
        config = AggregationConfig(("a",) * 4, ready.channels, (4, 2), 5, projection=32, bottleneck=32)
        made = new_network(config, 0)
        trainer = HeadTrainer(made, Examples(pairs, source, 0), TrainSettings(lr=1e30, steps=50), tmp_path / "out")
        words = "features hold NaN" if broken else "learning rate below 1e"
        with pytest.raises(NonFiniteError, match=words):
            trainer.run()


class Spoiled:
    def __init__(self, source) -> None:
        self.source = source

    def maps(self, path: Path) -> PictureMaps:
        found = self.source.maps(path)
        return PictureMaps(tuple(layer * torch.nan for layer in found.layers), found.frame)


def test_mirrored_examples_show_the_same_points(extractor, world: Path, tmp_path: Path) -> None:
    from PIL import Image

    pairs = open_dataset("toyworld", world, "trn")
    seen: list[Path] = []
    with prepare(extractor, [pairs], tmp_path, mirror=pairs) as ready:

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


@pytest.mark.parametrize(
    ("change", "word"),
    [({"steps": 0}, "steps"), ({"flip": 1.5}, "flip"), ({"lr": 0}, "learning rate"), ({"dense": -1}, "dense")],
    ids=str,
)
def test_settings_out_of_range(change: dict, word: str) -> None:
    with pytest.raises(InvalidValueError, match=word):
        TrainSettings(**change)


def test_larger_inputs(recipe: Recipe) -> None:
    assert training_recipe(recipe, 96).frame.size == (96, 96)
    wide = recipe.replace(frame={"mode": "keep", "longer": 64})
    assert training_recipe(wide, 96).frame.longer == 96


# ---- recipes with trained weights


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
def test_weights_for_something_else_are_refused(change: dict, words: list[str], trained, extractor) -> None:
    with pytest.raises(InvalidValueError) as caught:
        Extractor(Recipe.load(trained.recipe).replace(**change), extractor.backbone)
    assert all(word in str(caught.value) for word in words)


def test_the_hash_knows_the_weights_wherever_they_lie(trained, extractor, tmp_path: Path) -> None:
    import shutil

    moved = shutil.copytree(trained.recipe.parent, tmp_path / "moved")
    one, other = Recipe.load(trained.recipe), Recipe.load(moved / "recipe.yaml")
    assert one.hash == other.hash
    changed = network_of(other)
    with torch.no_grad():
        changed.mixing_weights[0] += 1
    changed.save_pretrained(moved / "weights")
    with pytest.raises(ModelError, match="SHA-256"):
        Extractor(other, extractor.backbone)
    accepted = (moved / "recipe.yaml").read_text().split("    sha256")[0]
    (moved / "recipe.yaml").write_text(accepted)
    assert Recipe.load(moved / "recipe.yaml").hash != one.hash


@pytest.mark.parametrize(
    ("name", "activation"), [("flux", "transformer_blocks.*"), ("sd3", "*.adaln"), ("ddpm", "up_blocks.*")]
)
def test_any_backbone_and_any_activations(name: str, activation: str, tmp_path: Path, world: Path) -> None:
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
    picture = open_dataset("toyworld", world, "test").images()[0]
    with prepare(reader, [open_dataset("toyworld", world, "test")], tmp_path / "maps") as ready:
        made = network(network_config(reader, ready.channels, 32, 32))
        made.save_pretrained(tmp_path / "weights")
        layers = ready.source.maps(picture).layers
    fuse = {"kind": "hyperfeatures", "weights": {"source": str(tmp_path / "weights")}}
    (found,) = Extractor(reader.recipe.replace(fuse=fuse), backbone).extract([picture])
    with torch.no_grad():
        assert error(found.tensor, made([layer[None] for layer in layers])[0]) <= 1e-4


def test_a_head_over_forward_noise(extractor, world: Path, tmp_path: Path) -> None:
    plain = extractor.recipe.replace(trajectory={"kind": "noise", "timesteps": [10, 200], "draws": 2})
    pairs = open_dataset("toyworld", world, "trn")
    outcome = train_hyperfeatures(
        Extractor(plain, extractor.backbone), pairs, tmp_path, TrainSettings(steps=2), projection=32, bottleneck=32
    )
    (found,) = Extractor(Recipe.load(outcome.recipe), extractor.backbone).extract([pairs[0].source])
    assert found.tensor.shape == (32, 8, 8)


# ---- pruning


@torch.no_grad()
def test_pruning_keeps_the_strongest_and_renormalises() -> None:
    made, values = network(), maps()
    order = ranked(made)
    shares = made.shares
    assert [float(shares[p]) for p in order] == sorted(shares.flatten().tolist(), reverse=True)
    assert error(keep_strongest(made, 9).network(values, (8, 8)), made(values, (8, 8))) <= 1e-6
    for pruned in (keep_strongest(made, 3), keep_step(made), keep_layer(made, 1), keep(made, [(0, 0), (2, 1)], "two")):
        config = pruned.network.config
        steps = [made.config.steps.index(s) for s in config.steps]
        layers = [made.config.activations.index(a) for a in config.activations]
        some = [values[k][:, steps] for k in layers]
        share = sum(shares[p] for p in pruned.kept)
        wanted = sum(
            shares[s, k] / share * made.bottleneck_layers[k][0](values[k][:, s], (8, 8)) for s, k in pruned.kept
        )
        assert error(pruned.network(some, (8, 8)), wanted) <= 1e-5
        assert pruned.share == pytest.approx(float(share))
        assert ranked(pruned.network)  # can be pruned again
    for count in (0, 10):
        with pytest.raises(InvalidValueError, match="keep 1 to"):
            keep_strongest(made, count)


def test_the_curve_costs_less_with_less(trained, extractor, world: Path, tmp_path: Path) -> None:
    loaded = Recipe.load(trained.recipe)
    made = network_of(loaded)
    pairs = open_dataset("toyworld", world, "val")
    with prepare(Extractor(recipe_of(loaded, made.config), extractor.backbone), [pairs], tmp_path) as ready:
        points = curve(made, loaded, Catalogue.of(extractor.backbone), pairs, ready.source, PROTOCOL)
    labels = [p.pruned.label for p in points]
    assert labels[0] == "the strongest pair"
    assert "all pairs" in labels
    whole = points[labels.index("all pairs")]
    assert whole.result.value == pytest.approx(trained.trained.validation)
    assert all(p.calls <= whole.calls for p in points)
    # Two of five steps are read, the noisier one is the third call; it ends at the last of the layers.
    assert 2 < denoiser_calls(recipe_of(loaded, made.config), Catalogue.of(extractor.backbone)) <= 3


# ---- the command line


def run_cli(*arguments: object) -> str:
    from typer.testing import CliRunner

    from diffeat.cli.main import app

    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_from_the_command_line(world: Path, recipe: Recipe, tmp_path: Path) -> None:
    recipe.save(tmp_path / "r.yaml")
    out = tmp_path / "out"
    run_cli(
        "train", "hyperfeatures", "--root", world, "--recipe", tmp_path / "r.yaml", "--out", out, "--steps", 4,
        "--projection", 32, "--bottleneck", 32, "--every", 2, "--device", "cpu", "--tensorboard",
    )  # fmt: skip
    assert {"recipe.yaml", "report.html", "log.csv", STATE, "weights", "tensorboard"} <= {p.name for p in out.iterdir()}
    run_cli("eval", "toyworld", "--root", world, "--recipe", out / "recipe.yaml", "--device", "cpu", "--limit", 2)
    pruned = tmp_path / "pruned"
    run_cli(
        "train", "prune", out / "recipe.yaml", "--root", world, "--features", out, "--out", pruned, "--keep", 2,
        "--single-maps", "--device", "cpu",
    )  # fmt: skip
    assert (pruned / "report.html").read_text().count("<svg") == 3
    one, other = open_dataset("toyworld", world, "test").images()[:2]
    run_cli("match", one, other, "--recipe", pruned / "recipe.yaml", "--device", "cpu")
    synthetic = tmp_path / "synthetic"
    run_cli(
        "generate", "-r", out / "recipe.yaml", "-p", "a cat", "--count", 2, "--guidance", 2, "-o", synthetic,
        "--device", "cpu",
    )  # fmt: skip
    files = [synthetic / f"000-{n}.png" for n in range(2)]
    run_cli("match", *files, "--recipe", synthetic / "recipe.yaml", "--device", "cpu")
    Recipe.load(synthetic / "recipe.yaml").replace(**{"trajectory.guidance": None}).save(tmp_path / "g.yaml")
    failed: dict[str, DiffeatError] = {}
    reader = Extractor.from_recipe(synthetic / "recipe.yaml", device="cpu")
    (found,) = reader.stream([one, files[0]], on_error=failed.__setitem__)
    assert found.provenance["prompt"] == "a cat"
    assert list(failed) == [one.as_posix()]
    assert "does not say how it was generated" in str(failed[one.as_posix()])
    with pytest.raises(InvalidValueError, match=r"guidance 2\.0, but recipe .* has None"):
        run_cli("match", *files, "--recipe", tmp_path / "g.yaml", "--device", "cpu")
