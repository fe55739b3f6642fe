"""Sweeps and the report on massive activations, on tiny transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from benchmarks.tables.injection import inject_massive
from diffeat.activations import Catalogue
from diffeat.backbones import Backbone
from diffeat.cli.main import app
from diffeat.cli.ranges import read_numbers
from diffeat.datasets.registry import open_dataset
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.extraction import Extractor, Recipe
from diffeat.extraction.detect import calibration_pictures
from diffeat.geometry import open_image
from diffeat.report.massive import captions, summary, to_markdown, write_massive
from diffeat.report.massive_figures import local_similarity
from diffeat.report.sweep import write_sweep
from diffeat.studies.massive import find_massive
from diffeat.studies.sweeps import block_names, sweep
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.correspondence.protocol import get_protocol
from tiny.pipelines import build

RECIPE = Recipe.from_dict(
    {
        "name": "tiny",
        "model": "tiny",
        "frame": {"mode": "squash", "size": 96},
        "trajectory": {"timesteps": [200], "draws": 2},
        "activations": ["ditf:1"],
        "refine": {"discard": "pre"},
    }
)


@pytest.fixture(scope="module")
def flux() -> Backbone:
    return Backbone.from_pipeline(build("flux"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory):
    root = write_toyworld_pairs(
        tmp_path_factory.mktemp("world"),
        size=64,
        classes=["horse", "car"],
        images={"trn": 0, "val": 2, "test": 0},
        pairs=2,
    )
    return open_dataset("toyworld", root, "val")


def test_a_sweep_scores_every_cell_as_an_evaluation_would_and_goes_on(flux: Backbone, pairs, tmp_path: Path) -> None:
    calls = []

    def make(recipe: Recipe) -> Extractor:
        calls.append(recipe.trajectory.timesteps)
        return Extractor(recipe, flux)

    recipe = RECIPE.replace(refine={})
    protocol = get_protocol("spair")
    names = block_names(recipe, Catalogue.of(flux), [1, 3])
    assert names == ["ditf:1", "ditf:3"]
    first = sweep(recipe, make, pairs, protocol, tmp_path, timesteps=[100], blocks=names)
    assert (first.computed, len(calls)) == (2, 1)
    whole = sweep(recipe, make, pairs, protocol, tmp_path, timesteps=[100, 300], blocks=names)
    assert (whole.computed, len(calls)) == (2, 2)
    assert whole.cells[100, "ditf:3"] == first.cells[100, "ditf:3"]
    alone = recipe.replace(activations=["ditf:3"], **{"trajectory.timesteps": [300]})
    expected = evaluate(pairs, Extractor(alone, flux), protocol).result
    assert whole.cells[300, "ditf:3"].value == pytest.approx(expected.value)
    assert whole.recipe.activations == (whole.best.block,)
    assert not list(tmp_path.glob("features-*"))

    page = write_sweep(whole, tmp_path)
    assert "<svg" in page.read_text()
    best = Recipe.load(tmp_path / "best.yaml")
    assert best.trajectory.timesteps == (whole.best.timestep,)
    assert f"The best of 4 cells of a sweep of tiny on toyworld val: {whole.best.told(protocol)}" in best.source
    assert "Tried: t = 100, 300; ditf:1, ditf:3" in best.source
    cell = whole.cells[300, "ditf:3"]
    assert (cell.other, cell.pairs) == (expected.overall.values[0.1]["point"], len(pairs))
    assert whole.table()[1][0][1] == f"{whole.cells[100, 'ditf:1'].value:.1f} ({whole.cells[100, 'ditf:1'].other:.1f})"
    for text in (page.read_text(), (tmp_path / "sweep.md").read_text()):
        assert "PCK@0.1 of the target box" in text
        assert "per image (per point)" in text
        assert "features computed in float32" in text
        assert f"{cell.pairs} pairs, {cell.points} points" in text
    cells = json.loads((tmp_path / "sweep.json").read_text())["cells"]
    assert len(cells) == 4


def test_blocks_by_number_and_by_pattern(flux: Backbone) -> None:
    catalogue = Catalogue.of(flux)
    ff = RECIPE.replace(activations=["transformer_blocks.0.ff.adaln"], refine=None)
    assert block_names(ff, catalogue, [1]) == ["transformer_blocks.1.ff.adaln"]
    assert block_names(RECIPE, catalogue, ["transformer_blocks.*.adaln"]) == [
        "transformer_blocks.0.adaln",
        "transformer_blocks.1.adaln",
    ]
    with pytest.raises(UnknownNameError, match="ditf:4"):
        block_names(RECIPE, catalogue, [57])
    with pytest.raises(InvalidValueError, match="cannot be put"):
        block_names(RECIPE.replace(activations=["norm_out"], refine=None), catalogue, [3])


def test_ranges_on_the_command_line() -> None:
    assert read_numbers(["20, 60:140:40"], "--t") == [20, 60, 100, 140]
    assert read_numbers(["3", "4:5"], "--t") == [3, 4, 5]
    assert read_numbers(["0:1:0.1"], "--t")[-1] == pytest.approx(1)
    for wrong in ("", "a", "5:3", "1:2:0", "1:2:3:4"):
        with pytest.raises(InvalidValueError, match="--t"):
            read_numbers([wrong], "--t")


def test_the_survey_names_channels_their_birth_and_their_parameters(tmp_path: Path) -> None:
    massive = Backbone.from_pipeline(build("flux"))
    inject_massive(massive, [3, 5], size=150, spread=0.05, timestep=200, picture=(96, 96))
    pictures = list(calibration_pictures(3))
    found = find_massive(RECIPE, massive, pictures, timesteps=[600])
    assert found.timesteps == (200, 600)
    assert sorted(found.channels) == [3, 5]
    assert found.detections["transformer_blocks.0.adaln", 200].channels == []
    for channel in (3, 5):
        birth = found.birth(channel)
        assert (birth.first, birth.born_in) == (1, "transformer_blocks.0.adaln")
        assert birth.gate_rank in (1, 2)  # the gate spikes where the channel is born
    assert found.stability(2)["pictures"] == 1
    raw, _, discarded = (local_similarity(f.tensor).mean() for f in found.examples[0].values())
    assert raw > 0.95
    assert discarded < raw - 0.1

    page = write_massive(found, [open_image(p) for p in pictures[:2]], tmp_path)
    assert page.read_text().count("<svg") == 3
    told = to_markdown(found)
    assert "Channel 3: block transformer_blocks.1.adaln" in told
    assert "it fails" in told
    said = captions(found)
    assert "triangles" in said["depth"]
    assert "channels 3, 5 were discarded" in said["features"]
    assert "3, 5 at t = 200" in said["timesteps"]
    largest = {row[0]: row[3] for row in found.table()[1]}
    assert "ratio" in largest["transformer_blocks.0.adaln"]
    assert largest["transformer_blocks.1.adaln"] == "no test"
    assert sorted(b["channel"] for b in json.loads((tmp_path / "massive.json").read_text())["births"]) == [3, 5]


def test_a_clean_model_has_none_and_says_how_far_it_is(flux: Backbone) -> None:
    found = find_massive(RECIPE, flux, list(calibration_pictures(2)))
    assert found.channels == []
    told = summary(found)[0]
    assert "No massive channel" in told
    size = found.statistics[found.place].mean_abs
    assert (
        f"is {float(size.max() / size.median()):.1f} times the median channel (the rule asks for 30, met in 0%" in told
    )
    said = captions(found)
    assert "triangles" not in said["depth"]
    assert "no channel is massive" in said["depth"]
    assert "nothing was discarded: the last two are equal" in said["features"]
    assert "none at any" in said["timesteps"]
    with pytest.raises(InvalidValueError, match="two pictures"):
        find_massive(RECIPE, flux, list(calibration_pictures(1)))
    unet = Backbone.from_pipeline(build("sd15"))
    with pytest.raises(InvalidValueError, match="no AdaLN"):
        find_massive(RECIPE.replace(activations=["up_blocks.1"], refine=None), unet, list(calibration_pictures(2)))


def test_local_similarity_is_the_mean_cosine_with_the_neighbours() -> None:
    feature = torch.randn(5, 4, 3)
    unit = feature / feature.norm(dim=0)
    near = [(y, x) for y in (0, 1) for x in (0, 1) if (y, x) != (0, 0)]
    expected = torch.stack([unit[:, 0, 0] @ unit[:, y, x] for y, x in near]).mean()
    torch.testing.assert_close(local_similarity(feature)[0, 0], expected)
    assert local_similarity(torch.ones(3, 4, 4)).allclose(torch.ones(4, 4))


def test_commands(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build("pixart_sigma").save_pretrained(folder)
    recipe = tmp_path / "recipe.yaml"
    RECIPE.replace(model=str(folder)).save(recipe)
    done = CliRunner().invoke(
        app,
        [
            "massive",
            "-r",
            str(recipe),
            "-o",
            str(tmp_path / "m"),
            "--timestep",
            "200",
            "--write",
            str(tmp_path / "w.yaml"),
        ],
    )
    assert done.exit_code == 0, done.output
    assert "Rule: mean |x|" in done.output
    assert yaml.safe_load((tmp_path / "w.yaml").read_text())["refine"] == {}
