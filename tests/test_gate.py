"""GATE on a tiny pipeline: pairing, controls, batching, the report and the command."""

# ruff: noqa: F811 (arguments are named like the fixtures that are imported)
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from diffeat.errors import DatasetError, InvalidValueError, UnknownNameError
from diffeat.report.gate import write_gate_report, write_search_report
from diffeat.studies.content_shift import GateSettings, ShiftMeter, gate, search
from diffeat.studies.content_shift.examples import examples_of
from diffeat.studies.content_shift.gating import without_effect
from diffeat.techniques import Combination, ControlNet, DenoiseFrom, Guidance, LoRA, Prompt
from diffeat.techniques.parse import parse_combination
from support.techniques import backbone, files, fingerprint, picture, recipe  # noqa: F401 (fixtures)

SETTINGS = GateSettings(strength=0.6, steps=2, seeds=2, feature_measures=("cosine", "self-match"))


def test_gate_pairs_controls_and_restores(backbone: Any, files: Any, tmp_path: Path) -> None:
    pictures = [picture(i) for i in range(3)]
    before = fingerprint(backbone.pipeline)
    control = ControlNet(model=str(files / "control"), condition="soft-edges")
    techniques = {"edges": control, "lora": LoRA(path=str(files / "lora.safetensors")), "guidance": Guidance(scale=4)}
    result = gate(backbone, pictures, techniques, recipe(), SETTINGS)
    assert [v.name for v in result.variants] == [
        "base", "edges", "edges (null)", "edges (shuffled)", "lora", "lora (null)", "guidance", "guidance (null)",
    ]  # fmt: skip
    base = result.shifts["base"]
    assert set(base) == {(s, m) for s in ("img2img", "operating") for m in SETTINGS.measures} | {
        ("features", m) for m in SETTINGS.feature_measures
    }
    for name in techniques:
        for at in base:
            assert np.array_equal(result.shifts[f"{name} (null)"][at], base[at])
            assert result.shifts[name][at].shape == (3, 2)
    assert not result.warnings
    assert np.allclose(result.shifts["guidance"]["features", "cosine"], base["features", "cosine"], atol=1e-6)
    assert not np.array_equal(
        result.shifts["edges"]["img2img", "pixel"], result.shifts["edges (shuffled)"]["img2img", "pixel"]
    )
    assert fingerprint(backbone.pipeline) == before

    page = write_gate_report(result, tmp_path, examples_of(result, backbone, pictures, 1))
    assert "shuffled" in page.read_text()
    data = json.loads((tmp_path / "gate.json").read_text())
    assert {v["name"] for v in data["variants"]} == {v.name for v in result.variants}
    lines = (tmp_path / "gate.csv").read_text().splitlines()
    assert len(lines) == 1 + 8 * 8 * 3 * 2


def test_a_picture_alone_and_in_a_batch_and_its_estimate_by_hand(backbone: Any) -> None:
    from diffeat.studies.content_shift.measures import pixel_shift
    from diffeat.trajectories import Row, noisy_latents

    pictures = [picture(i) for i in range(3)]
    with ShiftMeter(backbone, pictures, recipe(), SETTINGS) as meter:
        together, alone = meter.measure(None), meter.measure(None, pictures=[1])
        for at, values in alone.items():
            assert np.allclose(values[0], together[at][1], rtol=1e-3, atol=1e-5), at
        pixels = meter.pixels(1)
    with torch.no_grad():
        posterior = backbone.encode_images(pixels[None])
        noisy = noisy_latents(
            backbone, posterior, [Row(200.0, 1, True)], image=meter.pictures[1].key, seed=0, sample_posterior=True
        )
        prediction = backbone.denoise(noisy, 200, backbone.condition(["a cat"], size=(64, 64)))
        found = backbone.decode(backbone.estimate_clean(noisy, 200, prediction))[0].clamp(-1, 1)
    assert together["operating", "pixel"][1, 1] == pytest.approx(pixel_shift(found, pixels), rel=1e-4)


def test_guidance_without_a_text_is_said_to_do_nothing(backbone: Any) -> None:
    told = Combination([Guidance(scale=4), Prompt(text="a dog")])
    captions = Combination([Guidance(scale=4), Prompt(captions={"a": "a dog"})])
    negative = Combination([Guidance(scale=4, negative="blurry")])
    for text, silent in (("", [told, captions, negative]), ("blurry", [told, captions, Combination([Guidance()])])):
        assert without_effect(silent, text) == []
    assert "does nothing here: pictures have the text ''" in without_effect([Combination([Guidance()])], "")[0]
    assert "'blurry'" in without_effect([negative], "blurry")[0]
    pictures = [picture(i) for i in range(2)]
    settings = GateSettings(steps=1, seeds=1, measures=("pixel",), feature_measures=("laplacian",), controls=False)
    result = gate(backbone, pictures, {"guidance": Guidance(scale=4)}, recipe(prompt=""), settings)
    assert [warning.split()[0] for warning in result.warnings] == ["guidance", "The"]
    assert "rotated channels" in result.warnings[1]
    for at, shifts in result.shifts["base"].items():
        assert np.allclose(result.shifts["guidance"][at], shifts, rtol=1e-4)
    found = search(backbone, pictures, [Combination([Guidance(), DenoiseFrom(start=300, steps=1)])], recipe(prompt=""),
                   budget=9, settings=settings)  # fmt: skip
    assert "does nothing here" in str(found)


def test_search_ends_in_a_recipe(backbone: Any, files: Any, tmp_path: Path) -> None:
    found = search(
        backbone, [picture(i) for i in range(4)], [LoRA(path=str(files / "lora.safetensors")), Prompt(text="a dog")],
        recipe(), budget=200,
        settings=GateSettings(steps=1, seeds=1, measures=("pixel",), feature_measures=("cosine",)),
    )  # fmt: skip
    write_search_report(found, tmp_path)
    from diffeat import Recipe

    loaded = Recipe.load(tmp_path / "recipe.yaml")
    assert Combination.of(loaded.techniques) == found.chosen


def test_refusals(backbone: Any) -> None:
    with pytest.raises(DatasetError, match="at least two"):
        gate(backbone, [picture()], [Guidance()], recipe())
    with pytest.raises(UnknownNameError, match="No measure 'ssmi'. Did you mean 'ssim'"):
        gate(backbone, [picture(0), picture(1)], [Guidance()], recipe(), GateSettings(measures=("ssmi",)))
    with pytest.raises(InvalidValueError, match="strength"):
        GateSettings(strength=1.5)
    with pytest.raises(InvalidValueError, match="at least one technique"):
        gate(backbone, [picture(0), picture(1)], [], recipe())
    with pytest.raises(InvalidValueError, match="guidance ×4 changes predictions"):
        search(backbone, [picture(0), picture(1)], [Guidance(scale=4)], recipe(), budget=9)


def test_techniques_as_text() -> None:
    assert parse_combination("prompt:a cat, sitting: still").techniques == (Prompt(text="a cat, sitting: still"),)
    two = parse_combination("controlnet:some/net,condition=scribble,scale=0.5 + lora:x.safetensors,scale=0.7")
    assert two == Combination(
        [ControlNet(model="some/net", condition="scribble", scale=0.5), LoRA(path="x.safetensors", scale=0.7)]
    )
    assert parse_combination("guidance:5").techniques == (Guidance(scale=5),)
    for text, match in [("lorra:x", "Did you mean 'lora'"), ("lora:x,scal=1", "Did you mean 'scale'")]:
        with pytest.raises(UnknownNameError, match=match):
            parse_combination(text)
    with pytest.raises(InvalidValueError, match="scale"):
        parse_combination("lora:x,scale=big")


def test_the_command(backbone: Any, tmp_path: Path) -> None:
    from diffeat.cli.main import app

    backbone.pipeline.save_pretrained(tmp_path / "model")
    recipe(model=str(tmp_path / "model")).save(tmp_path / "recipe.yaml")
    (tmp_path / "photos").mkdir()
    for i in range(2):
        picture(i).save(tmp_path / "photos" / f"{i}.png")
    asked = ["gate", str(tmp_path / "photos"), "-r", str(tmp_path / "recipe.yaml"), "-x", "prompt:a dog"]
    small = [
        "--steps",
        "1",
        "--seeds",
        "1",
        "--measure",
        "pixel",
        "--measure",
        "laplacian",
        "-o",
        str(tmp_path / "out"),
    ]
    run = CliRunner().invoke(app, [*asked, *small, "--no-controls"], catch_exceptions=False, env={"COLUMNS": "160"})
    assert "prompt:a dog" in run.output
    assert (tmp_path / "out" / "gate.html").is_file()
    assert "features (laplacian)" in run.output
    run = CliRunner().invoke(app, [*asked, *small, "--search", "9"], catch_exceptions=False)
    assert "Chosen:" in run.output
    assert (tmp_path / "out" / "recipe.yaml").is_file()
    run = CliRunner().invoke(app, [*asked, "--measure", "laplacain"])
    assert "Did you mean 'laplacian'" in str(run.exception)


def test_the_command_teaches() -> None:
    from diffeat.cli.main import app

    shown = CliRunner().invoke(app, ["gate", "--help"], env={"COLUMNS": "200"}).output
    for word in ("controlnet:MODEL", "cannot tell", "--search", "--strength"):
        assert word in shown
