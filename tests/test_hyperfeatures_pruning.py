"""Cheaper networks out of a trained one, and the whole way on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffeat.activations import Catalogue
from diffeat.datasets.registry import open_dataset
from diffeat.errors import DiffeatError, InvalidValueError
from diffeat.extraction import Extractor, Recipe
from diffeat.training.hyperfeatures.prepare import prepare
from diffeat.training.hyperfeatures.prune import curve, keep, keep_layer, keep_step, keep_strongest, ranked
from diffeat.training.hyperfeatures.recipes import denoiser_calls, network_of, recipe_of
from diffeat.training.loop import STATE
from support.hyperfeatures import PROTOCOL, error, maps, network


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


def test_the_curve_costs_less_with_less(head_training, head_extractor, head_world: Path, tmp_path: Path) -> None:
    loaded = Recipe.load(head_training.recipe)
    made = network_of(loaded)
    pairs = open_dataset("toyworld", head_world, "val")
    with prepare(Extractor(recipe_of(loaded, made.config), head_extractor.backbone), [pairs], tmp_path) as ready:
        points = curve(made, loaded, Catalogue.of(head_extractor.backbone), pairs, ready.source, PROTOCOL)
    labels = [p.pruned.label for p in points]
    assert labels[0] == "the strongest pair"
    assert "all pairs" in labels
    whole = points[labels.index("all pairs")]
    assert whole.result.value == pytest.approx(head_training.trained.validation.value)
    assert all(p.calls <= whole.calls for p in points)
    # Two of five steps are read, the noisier one is the third call; it ends at the last of the layers.
    assert 2 < denoiser_calls(recipe_of(loaded, made.config), Catalogue.of(head_extractor.backbone)) <= 3


def run_cli(*arguments: object) -> str:
    from typer.testing import CliRunner

    from diffeat.cli.main import app

    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_from_the_command_line(head_world: Path, head_recipe: Recipe, tmp_path: Path) -> None:
    head_recipe.save(tmp_path / "r.yaml")
    out = tmp_path / "out"
    trained = run_cli(
        "train", "hyperfeatures", "--root", head_world, "--recipe", tmp_path / "r.yaml", "--out", out, "--steps", 4,
        "--projection", 32, "--bottleneck", 32, "--every", 2, "--device", "cpu",
    )  # fmt: skip
    assert {"recipe.yaml", "report.html", "log.csv", STATE, "weights"} <= {p.name for p in out.iterdir()}
    scored = run_cli(
        *("eval", "toyworld", "--root", head_world, "--recipe", out / "recipe.yaml", "--device", "cpu", "--limit", 2)
    )
    assert "per point   PCK@0.01" in scored
    for text in (trained, (out / "report.html").read_text()):
        for words in ("PCK@0.1 of the target box: ", "per image", "per point", "pairs,", "points", "toyworld val"):
            assert words in text
        assert "features computed in float32" in text
    pruned = tmp_path / "pruned"
    told = run_cli(
        *("train", "prune", "-r", out / "recipe.yaml", "--root", head_world, "--features", out),
        *("--out", pruned, "--keep", 2, "--device", "cpu", "--limit", 5),
    )
    for text in (told, (pruned / "report.html").read_text(), (pruned / "report.md").read_text()):
        for words in ("of toyworld val", "α·max(w, h) of the target box", "only 5 of", "bootstrap over pictures"):
            assert words in " ".join(text.split())
        assert "features computed in float32" in text
    assert "PCK@0.1 per image (per point)" in (pruned / "report.html").read_text()
    assert (pruned / "report.html").read_text().count("<svg") == 2
    one, other = open_dataset("toyworld", head_world, "test").images()[:2]
    run_cli("match", one, other, "--recipe", pruned / "recipe.yaml", "--device", "cpu")
    synthetic = tmp_path / "synthetic"
    run_cli(
        "generate", "-r", out / "recipe.yaml", "--prompt", "a cat", "--count", 2, "--guidance", 2, "-o", synthetic,
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
