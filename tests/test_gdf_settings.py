"""Layer files and options of Generic Diffusion Feature, its published sets, and sets over several models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from conftest import golden_roots
from diffeat.activations import Catalogue
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.extraction import Extractor, Joined, JoinedSource, Reading, Recipe, preset_names
from diffeat.extraction.gdf_config import VERSIONS, recipe_from_gdf
from diffeat.extraction.wanted import AttentionActivation
from support.selection import catalogue, sd15, sdxl
from test_composed import picture
from tiny.pipelines import build

PRACTICAL = {
    "up-level1-repeat1-vit-block0-cross-q": True,
    "up-level1-repeat2-res-out": True,
    "up-level2-repeat1-vit-block0-cross-q": True,
    "up-level3-repeat0-vit-block0-self-k": True,
}


def channels(recipe: Reading, catalogue: Catalogue) -> int:
    tokens = 2 * 77  # averaged attention: two grids
    return sum(tokens if isinstance(a, AttentionActivation) else catalogue[str(a)].channels for a in recipe.activations)


def test_published_sets_have_their_channels() -> None:
    """Table of the released configurations: 8154 = 3840 + 2880 + 154 + 1280, 7040 = 4480 + 2560."""
    one, xl = catalogue(sd15), catalogue(sdxl)
    on_data = ("-spair", "-horse21", "-bedroom28", "-ade20k", "-cityscapes")
    names = [n for n in preset_names() if n.startswith("gdf-") and not n.endswith(on_data)]
    expected = {
        "gdf-sd15": 3520, "gdf-sd15-legacy": 3520, "gdf-sd15-amalgamation": 3034, "gdf-sd15-amalgamation-small": 1754,
        "gdf-sd15-vpd": 3200 + 2 * 154, "gdf-sdxl": 3840, "gdf-sdxl-legacy": 2240, "gdf-playground-amalgamation": 1280,
        "gdf-sdxl-segmentation": 4480, "gdf-playground-segmentation": 2560,
    }  # fmt: skip
    joint = {n for n in names if isinstance(Recipe.load(n), Joined)}
    assert set(names) - joint == set(expected)
    for name, count in expected.items():
        recipe = Reading.load(name)
        assert channels(recipe, one if recipe.model == "sd15" else xl) == count, name
    sums = {n: sum(expected[p.name] for p in Joined.load(n).parts) for n in joint}
    assert sums == {"gdf-xl-t": 8154, "gdf-xl-t-segmentation": 7040}


SETS = ("gdf-sd15", "gdf-sd15-legacy", "gdf-sdxl", "gdf-sdxl-legacy")
SCENES = {
    "spair": "a highly realistic photo that may contain an aeroplane, a bicycle, a bird, a boat, a bottle, a bus, a "
    "car, a cat, a chair, a cow, a dog, a horse, a motorbike, a person, a plant within a pot, a sheep, a train, or a "
    "tv monitor.",
    "horse21": "a photo of a horse",
    "bedroom28": "a photo of a bedroom",
    "ade20k": "a highly realistic photo of the real world. It can be an indoor scene, or an outdoor scene, or a photo "
    "of nature. high quality.",
    "cityscapes": "An urban street scene with multiple lanes, various buildings, traffic lights, cars in the lanes, "
    "and pedestrians, highly realistic.",
}


@pytest.mark.parametrize("dataset", SCENES)
def test_presets_of_a_data_set_have_its_text(dataset: str) -> None:
    whole = "gdf-xl-t-segmentation" if dataset in ("ade20k", "cityscapes") else "gdf-xl-t"
    for name in (*SETS, whole):
        recipe, plain = Recipe.load(f"{name}-{dataset}"), Recipe.load(name)
        assert recipe.text_for(None) == SCENES[dataset]
        parts = zip(recipe.single(), plain.single(), strict=True)
        for part, base in parts:
            assert isinstance(part, Reading)
            assert isinstance(base, Reading)
            assert part.text_for(None) == SCENES[dataset]
            changed = {"prompt": part.prompt, "fuse": part.fuse, "frame": part.frame}
            assert base.replace(**changed).content() == part.content()


def test_presets_join_maps_as_each_task_of_the_original() -> None:
    def fuse(name: str) -> list[Any]:
        parts = [part.fuse for part in Recipe.load(name).single() if isinstance(part, Reading)]
        return [part and (part.kind, part.grid, part.resize) for part in parts]

    lattice = ("concat", (128, 128), "bilinear")
    for name in SETS:
        assert fuse(name) == fuse(f"{name}-spair") == [lattice]
        assert fuse(f"{name}-horse21") == fuse(f"{name}-bedroom28") == [("concat", None, "nearest")]
        assert fuse(f"{name}-ade20k") == fuse(f"{name}-cityscapes") == [None]
    assert fuse("gdf-xl-t") == fuse("gdf-xl-t-spair") == [lattice] * 3
    assert fuse("gdf-xl-t-horse21") == [("concat", None, "nearest")] * 3


def test_a_crop_reaches_the_model_as_the_original_resizes_tensors() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), np.uint8))
    for name, side, size in (("gdf-sd15-cityscapes", 1024, 512), ("gdf-sdxl-ade20k", 512, 1024)):
        spec = Reading.load(name).frame
        crop = image.crop((0, 0, side, side))
        values = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected = torch.nn.functional.interpolate(values, (size, size), mode="bilinear")[0]
        assert torch.allclose(spec.frame(crop.size).pixels(crop), expected, atol=1e-6)


def test_a_layer_file_is_read_directly(tmp_path: Path) -> None:
    file = tmp_path / "config_15_practical.json"
    file.write_text(
        json.dumps({**PRACTICAL, "up-level0-upsampler-out": False, "up-level1-repeat0-vit-block0-cross-k": True})
    )
    recipe = Reading.load(file)
    assert [str(a) for a in recipe.activations] == [f"gdf:{id}" for id in PRACTICAL]
    assert recipe.content() == Recipe.load("gdf-sd15").replace(fuse=None).content()
    (tmp_path / "layers.json").write_text(json.dumps({"up-level0-repeat0-res-out": True}))
    with pytest.raises(InvalidValueError, match="does not tell its model"):
        Recipe.load(tmp_path / "layers.json")
    (tmp_path / "config_15_none.json").write_text(json.dumps({"up-level0-repeat0-res-out": False}))
    with pytest.raises(InvalidValueError, match="switches no layer on"):
        Recipe.load(tmp_path / "config_15_none.json")


@pytest.mark.parametrize("family", ["sd15", "sdxl", "pixart", "flux"])
def test_maps_come_in_the_order_of_execution(family: str) -> None:
    meta = next((m for root in golden_roots() if (m := root / "gdf" / family / "meta.json").is_file()), None)
    if meta is None:
        pytest.skip("this part of the reference data is not beside the repository")
    ids = [id for id in json.loads(meta.read_text())["ids_in_reference_order"] if "map" not in id]
    shuffled = np.random.default_rng(0).permutation(ids).tolist()
    recipe = recipe_from_gdf(dict.fromkeys(shuffled, True), "1-5")
    assert [str(a) for a in recipe.activations] == [f"gdf:{id}" for id in ids]


def test_a_recipe_in_json_is_still_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(Recipe.load("gdf-sd15").model_dump(mode="json")))
    assert Recipe.load(tmp_path / "r.json") == Recipe.load("gdf-sd15")


def scheduler_of(version: str) -> Any:
    """The stock scheduler of a version, as its published configuration makes it."""
    import diffusers as D

    scaled = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    offset = {"steps_offset": 1, "timestep_spacing": "leading"}
    if version == "1-5":
        return D.PNDMScheduler(**scaled, skip_prk_steps=True, steps_offset=1)
    if version == "2-1":
        return D.EulerDiscreteScheduler(**scaled)
    if version in ("xl", "pgv2"):
        return D.EulerDiscreteScheduler(**scaled, **offset)
    if version == "hunyuan":
        return D.DDPMScheduler(**{**scaled, "beta_end": 0.03}, **offset)
    if version == "flux":
        return D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return D.DPMSolverMultistepScheduler(timestep_spacing="linspace")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_timestep_is_what_their_schedule_takes(version: str) -> None:
    """Against stock schedulers, and the selection of steps of the image-to-image pipelines."""
    schedule, steps = scheduler_of(version), {"flux": 28, "hunyuan": 50}.get(version, 1000)
    if version == "flux":
        schedule.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=1.15)
    else:
        schedule.set_timesteps(steps)
    for t in (*range(1, 1001, 7), 20, 50, 100, 261, 998, 999, 1000):
        strength = t / 1000
        start = int(max(steps - min(steps * strength, steps), 0))
        if version != "flux":
            start = max(steps - min(int(steps * strength), steps), 0)
        if start == steps:
            with pytest.raises(InvalidValueError, match="no step left"):
                VERSIONS[version].took(t)
        else:
            assert VERSIONS[version].took(t) == pytest.approx(float(schedule.timesteps[start]), abs=1e-3), t
    with pytest.raises(InvalidValueError, match="no step left"):
        recipe_from_gdf(PRACTICAL, version, t=0)


def test_a_recipe_has_the_timestep_that_t_50_really_is() -> None:
    took = {v: round(recipe_from_gdf(PRACTICAL, v).trajectory.timesteps[0], 1) for v in VERSIONS}
    assert took == {
        "1-5": 51, "2-1": 49, "xl": 50, "pgv2": 50, "pixart-sigma": 50, "pixart-alpha": 50, "flux": 195.5, "hunyuan": 21
    }  # fmt: skip


def test_options_become_fields() -> None:
    recipe = recipe_from_gdf(
        PRACTICAL, "1-5", t=100, img_size=256, prompt="a horse", attention=["up_cross"], feature_resize=2,
        control=["canny"], aggregate_output=True,
    )  # fmt: skip
    assert recipe.frame.size == (256, 256)
    assert recipe.prompt == "a horse"
    assert recipe.shrink == 2
    assert recipe.fuse is not None
    assert recipe.activations[-1] == AttentionActivation(attention="up_cross")
    assert recipe.techniques is not None
    assert recipe.techniques[0].kind == "controlnet"
    with pytest.raises(UnknownNameError, match="1-5"):
        recipe_from_gdf(PRACTICAL, "1.5")
    with pytest.raises(UnknownNameError, match="canny-xl"):
        recipe_from_gdf(PRACTICAL, "1-5", control=["cany-xl"])


def test_inversion_stops_at_the_wanted_noise_level() -> None:
    trajectory = recipe_from_gdf(PRACTICAL, "1-5", t=50, use_ddim_inversion=True).trajectory
    assert trajectory.kind == "inversion"
    backbone = Backbone.from_pipeline(build("sd15"))
    small = recipe_from_gdf(PRACTICAL, "1-5", t=50, img_size=64, use_ddim_inversion=True)
    extractor = Extractor(small, backbone)
    assert len(extractor.times) == 1
    assert abs(extractor.times[0] - 51) <= 5


def test_every_version_is_a_model() -> None:
    from diffeat.backbones import resolve_model

    for version in VERSIONS.values():
        assert resolve_model(version.model)


def test_joint_features_are_the_parts_side_by_side() -> None:
    first, second = (Backbone.from_pipeline(build("sd15", seed)) for seed in (0, 1))
    base = {"model": "x", "trajectory": {"timesteps": [50]}}
    one = Reading.from_dict(
        base | {"frame": {"mode": "squash", "size": 64}, "activations": ["up_blocks.1", "up_blocks.2"]}
    )
    two = Reading.from_dict(base | {"frame": {"mode": "squash", "size": 32}, "activations": ["up_blocks.3"]})
    joint = Joined.from_dict({"parts": [one, two], "name": "both"})
    extractors = [Extractor(p, b) for p, b in zip(joint.parts, (first, second), strict=True) if isinstance(p, Reading)]
    image = picture()
    (found,) = JoinedSource(joint, extractors).extract(image, "a cat")
    a, b = (e.extract(image, "a cat")[0].tensor for e in extractors)
    grid = a.shape[1:]
    resized = torch.nn.functional.interpolate(b[None], size=grid, mode="bilinear", align_corners=False)[0]
    assert found.tensor.shape[0] == a.shape[0] + b.shape[0]
    assert torch.allclose(found.tensor[: len(a)], a)
    assert torch.allclose(found.tensor[len(a) :], resized, atol=1e-5)
    assert len(found.provenance["parts"]) == 2
    assert joint.hash != Joined.from_dict({"parts": [two, one]}).hash
    with pytest.raises(InvalidValueError, match="two parts"):
        Joined.from_dict({"parts": [one]})
    with pytest.raises(UnknownNameError, match="gdf-xl-t"):
        Recipe.load("gdf-xlt")


def test_joint_recipes_are_files(tmp_path: Path) -> None:
    folder = next(root / "gdf" / "sd15" / "pipeline" for root in golden_roots() if (root / "gdf" / "sd15").is_dir())
    part = {
        "model": str(folder), "frame": {"mode": "squash", "size": 64}, "trajectory": {"timesteps": [50]},
        "activations": ["up_blocks.1"],
    }  # fmt: skip
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\nparts:\n  - {json.dumps(part)}\n  - {json.dumps(part | {'seed': 1})}\n")
    from typer.testing import CliRunner

    from diffeat.cli.main import app
    from diffeat.storage import FeatureStore

    picture().save(tmp_path / "a.png")
    out = tmp_path / "out"
    arguments = ["extract", str(tmp_path / "a.png"), "--recipe", str(file), "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    width = Catalogue.of(unet)["up_blocks.1"].channels
    with FeatureStore.open(out) as store:
        assert next(iter(store)).tensor.shape[0] == 2 * width
    refused = CliRunner().invoke(app, [*arguments, "--set", "trajectory.drws=5"])
    assert isinstance(refused.exception, InvalidValueError)
