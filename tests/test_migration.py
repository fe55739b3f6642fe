"""Every line of docs/migration.md, run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as D
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import diffeat
from diffeat import Backbone, Extractor, FeatureMap, FeatureStore, Recipe
from diffeat.cli.main import app
from diffeat.errors import DiffeatError, UnknownNameError
from diffeat.extraction import Joined, Reading, preset_names, recipe_from_gdf
from diffeat.extraction.gdf_config import VERSIONS
from support.techniques import save_kohya

PAGE = Path(__file__).parent.parent / "docs" / "migration.md"
MODEL = Path(__file__).parent / "golden" / "gdf" / "sd15" / "pipeline"
PAIRS = Path(__file__).parent / "golden" / "pck" / "SPair-71k"
LAYER = "up-level1-repeat2-res-out"
SIZE = 64
LINES: dict[str, Callable[[Desk], None]] = {}


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (50, 70, 3), np.uint8))


class Desk:
    """A tiny model, pictures and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backbone = Backbone.from_pretrained(str(MODEL))
        self.image = picture()
        self.photos = folder / "photos"
        (self.photos / "inner").mkdir(parents=True)
        self.image.save(self.photos / "a.png")
        picture(1).save(self.photos / "inner" / "b.png")

    def recipe(self, activations: Any = (f"gdf:{LAYER}",), **fields: Any) -> Recipe:
        base = {
            "model": str(MODEL), "frame": {"mode": "squash", "size": SIZE}, "trajectory": {"timesteps": [51]},
            "activations": list(activations),
        }  # fmt: skip
        return Recipe.from_dict(base | fields)

    def read(self, recipe: Recipe | None = None, *arguments: Any, **options: Any) -> FeatureMap:
        return Extractor(recipe or self.recipe(), self.backbone, **options).extract(self.image, *arguments)[0]

    def file(self, recipe: Recipe) -> str:
        recipe.save(self.folder / "recipe.yaml", force=True)
        return str(self.folder / "recipe.yaml")

    def run(self, *arguments: Any) -> str:
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output


def line(*theirs: str) -> Callable[[Callable[[Desk], None]], Callable[[Desk], None]]:
    """Says which line of the page a function runs, by what stands in its first column."""

    def keep(function: Callable[[Desk], None]) -> Callable[[Desk], None]:
        LINES.update(dict.fromkeys(theirs, function))
        return function

    return keep


def rows() -> list[str]:
    found = [r.split("|")[1].strip() for r in PAGE.read_text(encoding="utf-8").splitlines() if r.startswith("|")]
    return [r for r in found if r != "theirs" and not set(r) <= {"-"}]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


def test_every_line_has_its_test() -> None:
    assert len(rows()) == len(set(rows())) > 30
    assert set(LINES) == set(rows())


#: These run whole commands on labelled sets, which tests of the commands do as well.
LONG = ("choosing layers by eye", "`scarce_segmentation/task-pixel.py`")


@pytest.mark.parametrize("theirs", [pytest.param(r, marks=pytest.mark.slow if r in LONG else (), id=r) for r in rows()])
def test_line(theirs: str, desk: Desk) -> None:
    LINES[theirs](desk)


# ---- FeatureExtractor


@line('`layer="config_15_practical.json"`')
def _(desk: Desk) -> None:
    file = desk.folder / "config_15_practical.json"
    file.write_text(json.dumps({LAYER: True, "up-level2-upsampler-out": False}))
    recipe = Reading.load(file)
    assert recipe.model == "sd15"
    extractor = Extractor.from_recipe(recipe.replace(**{"frame.size": SIZE}), str(MODEL), device="cpu")
    assert list(extractor.extract(desk.image)[0].activations) == [f"gdf:{LAYER}"]


@line('`layer={"up-level1-repeat2-res-out": True}`')
def _(desk: Desk) -> None:
    assert list(desk.read(recipe_from_gdf({LAYER: True}, "1-5", img_size=SIZE)).activations) == [f"gdf:{LAYER}"]


@line("`up-level1-repeat1-vit-block0-cross-q`")
def _(desk: Desk) -> None:
    id = "up-level1-repeat1-vit-block0-cross-q"
    module = desk.backbone.denoiser.get_submodule("up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_q")
    assert desk.read(desk.recipe([f"gdf:{id}"])).tensor.shape[0] == module.out_features
    with pytest.raises(UnknownNameError, match="cross-q"):
        desk.read(desk.recipe([f"gdf:{id}q"]))


@line("`…-cross-map`")
def _(desk: Desk) -> None:
    id = "gdf:up-level1-repeat1-vit-block0-cross-map"
    assert desk.read(desk.recipe([{"id": id, "tokens": [5]}])).tensor.shape[0] == 1
    text = torch.zeros(1, 77, desk.backbone.denoiser.config.cross_attention_dim)
    sample = torch.zeros(1, 4, 8, 8)
    with torch.no_grad():
        whole = diffeat.read(desk.backbone.denoiser, id, sample=sample, timestep=50, encoder_hidden_states=text)[id]
    assert whole.shape[-2:] == (4, 77)


@line('`version="xl"`')
def _(desk: Desk) -> None:
    from diffeat.backbones import resolve_model

    assert VERSIONS["xl"].model == "sdxl"
    assert all(resolve_model(v.model) for v in VERSIONS.values())


@line('`dtype="float16"`, `device="cuda"`')
def _(desk: Desk) -> None:
    extractor = Extractor.from_recipe(desk.recipe(), dtype=torch.bfloat16, device="cpu")
    assert extractor.extract(desk.image)[0].tensor.dtype == torch.bfloat16


@line("`img_size=512`")
def _(desk: Desk) -> None:
    assert desk.read(desk.recipe(frame={"mode": "squash", "size": 128})).frame.model == (128, 128)
    assert desk.read(desk.recipe(frame={"mode": "squash", "size": [128, 64]})).frame.model == (128, 64)


@line("`offline_lora=DIR`")
def _(desk: Desk) -> None:
    assert Extractor.from_recipe("gdf-sd15", str(MODEL), device="cpu").recipe.model == str(MODEL)


@line("`offline_lora=DIR, offline_lora_filename=FILE`")
def _(desk: Desk) -> None:
    pipeline = desk.backbone.pipeline
    save_kohya(desk.folder / "lora.safetensors", pipeline.unet, pipeline.text_encoder)
    adapter = {"kind": "lora", "path": str(desk.folder), "file": "lora.safetensors"}
    plain = desk.read().tensor
    assert not torch.allclose(desk.read(desk.recipe(techniques=[adapter])).tensor, plain, rtol=1e-3)
    assert torch.equal(desk.read().tensor, plain)


@line("`feature_resize=2`")
def _(desk: Desk) -> None:
    plain, small = desk.read().tensor, desk.read(desk.recipe(shrink=2)).tensor
    assert torch.allclose(small, torch.nn.functional.adaptive_avg_pool2d(plain, small.shape[1:]), atol=1e-6)
    assert small.shape[1] == plain.shape[1] // 2


@line('`control=["canny"]`')
def _(desk: Desk) -> None:
    net = D.ControlNetModel.from_unet(desk.backbone.denoiser, conditioning_embedding_out_channels=(4, 4, 8, 8))
    for p in net.parameters():
        p.data.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    net.save_pretrained(desk.folder / "control")
    control = {"kind": "controlnet", "model": str(desk.folder / "control"), "condition": "canny"}
    assert not torch.equal(desk.read(desk.recipe(techniques=[control])).tensor, desk.read().tensor)
    made = recipe_from_gdf({LAYER: True}, "1-5", control=["canny"]).techniques
    assert made is not None
    assert made[0].kind == "controlnet"


@line('`attention=["up_cross"]`')
def _(desk: Desk) -> None:
    assert desk.read(desk.recipe([{"attention": "up_cross"}]), "a horse").tensor.shape[0] == 2 * 77


@line("`train_unet=True`")
def _(desk: Desk) -> None:
    assert desk.read(grad=True).tensor.requires_grad


@line("`external_model=pipe`")
def _(desk: Desk) -> None:
    pipe = D.DiffusionPipeline.from_pretrained(MODEL)
    assert torch.equal(
        Extractor(desk.recipe(), Backbone.from_pipeline(pipe)).extract(desk.image)[0].tensor, desk.read().tensor
    )


@line('`encode_prompt("a horse")`')
def _(desk: Desk) -> None:
    extractor = Extractor(desk.recipe(), desk.backbone)
    one, other = extractor.extract([desk.image, desk.image], ["a horse", "a car"])
    assert torch.allclose(one.tensor, extractor.extract(desk.image, "a horse")[0].tensor, atol=1e-5)
    assert not torch.allclose(one.tensor, other.tensor, atol=1e-3)


@line("`extract(t=50)`")
def _(desk: Desk) -> None:
    assert recipe_from_gdf({LAYER: True}, "1-5", t=50).trajectory.timesteps == (51,)
    assert recipe_from_gdf({LAYER: True}, "2-1", t=50).trajectory.timesteps == (49,)
    seen: list[float] = []
    handle = desk.backbone.denoiser.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(float(kwargs["timestep"].flatten()[0])), with_kwargs=True
    )
    try:
        desk.read()
    finally:
        handle.remove()
    assert seen == [51]


@line('`image_type="tensors"`')
def _(desk: Desk) -> None:
    (found,) = Extractor(desk.recipe(), desk.backbone).extract([np.asarray(desk.image)])
    assert torch.equal(found.tensor, desk.read().tensor)


@line("`batch_size=2`")
def _(desk: Desk) -> None:
    images = [picture(i) for i in range(3)]
    one, two = (Extractor(desk.recipe(), desk.backbone, batch_size=n).extract(images) for n in (1, 2))
    assert all(torch.allclose(a.tensor, b.tensor, atol=1e-5) for a, b in zip(one, two, strict=True))


@line("`denoising_from=100`")
def _(desk: Desk) -> None:
    chosen = desk.recipe(techniques=[{"kind": "denoise-from", "start": 100, "steps": 3}])
    assert not torch.equal(desk.read(chosen).tensor, desk.read().tensor)


@line("`use_ddim_inversion=True`")
def _(desk: Desk) -> None:
    theirs = recipe_from_gdf({LAYER: True}, "1-5", img_size=SIZE, use_ddim_inversion=True)
    assert theirs.trajectory.model_dump(exclude_none=True)["save"] == (93,)
    assert torch.isfinite(desk.read(theirs).tensor).all()


@line("`offload_prompt_encoder(persistent=True)`")
def _(desk: Desk) -> None:
    own = Backbone.from_pretrained(str(MODEL))
    extractor = Extractor(desk.recipe(), own)
    before = extractor.extract(desk.image, "a horse")[0].tensor
    own.drop_text_encoders()
    assert own.pipeline.text_encoder is None
    assert torch.equal(extractor.extract(desk.image, "a horse")[0].tensor, before)
    with pytest.raises(DiffeatError, match="not encoded yet"):
        extractor.extract(desk.image, "something else")


@line("`vae-out`")
def _(desk: Desk) -> None:
    assert desk.read(desk.recipe(["vae-out"])).tensor.shape == (3, SIZE, SIZE)


@line("no seed")
def _(desk: Desk) -> None:
    one, same, other = (desk.read(desk.recipe(seed=s)).tensor for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@line("one draw")
def _(desk: Desk) -> None:
    draws = {"timesteps": [51], "draws": 8}
    assert not torch.equal(desk.read(desk.recipe(trajectory=draws)).tensor, desk.read().tensor)


# ---- during a generation


@line("`set_background_extraction([1, 10])`, `get_background_extraction()`")
def _(desk: Desk) -> None:
    pipe = desk.backbone.pipeline
    with diffeat.tap(pipe, [f"gdf:{LAYER}"], steps=[0, 2]) as taps:
        pipe("a cat", num_inference_steps=4, height=SIZE, width=SIZE, output_type="latent")
    assert [index for index, _, _ in taps.steps] == [0, 2]
    assert taps.steps[0][2][f"gdf:{LAYER}"].shape[0] == 1


# ---- scripts


@line("`extract_feature.py --input_dir`")
def _(desk: Desk) -> None:
    store = desk.folder / "store"
    desk.run("extract", desk.photos, "--recipe", desk.file(desk.recipe()), "--out", store)
    with FeatureStore.open(store) as found:
        assert [Path(n).name for n in found.names()] == ["a.png", "b.png"]


@line("`--prompt_file prompt.txt`")
def _(desk: Desk) -> None:
    texts = desk.folder / "prompts.csv"
    texts.write_text("image,prompt\na.png,a horse\nb.png,a car\n")
    for name, options in (("one", ("--prompt", "a horse")), ("each", ("--prompts", texts))):
        desk.run("extract", desk.photos, "--recipe", desk.file(desk.recipe()), "--out", desk.folder / name, *options)
    with FeatureStore.open(desk.folder / "one") as one, FeatureStore.open(desk.folder / "each") as each:
        assert [f.provenance["prompt"] for f in one] == ["a horse", "a horse"]
        assert [f.provenance["prompt"] for f in each] == ["a horse", "a car"]


@line("`--output_dir`, `--use_original_filename`, `--sample_name_first`")
def _(desk: Desk) -> None:
    recipe = desk.recipe(["up_blocks.1", "up_blocks.2"])
    desk.run("extract", desk.photos, "--recipe", desk.file(recipe), "--out", desk.folder / "two")
    with FeatureStore.open(desk.folder / "two") as store:
        assert list(store.load("a.png", ["up_blocks.1"]).activations) == ["up_blocks.1"]


@line("`--aggregate_output`")
def _(desk: Desk) -> None:
    recipe = desk.recipe(["up_blocks.1", "up_blocks.2"], fuse={"kind": "concat", "resize": "nearest"})
    parts = desk.read(desk.recipe(["up_blocks.1", "up_blocks.2"]))
    size = parts["up_blocks.2"].shape[1:]
    nearest = [torch.nn.functional.interpolate(m[None], size, mode="nearest")[0] for m in parts.activations.values()]
    assert torch.equal(desk.read(recipe).tensor, torch.cat(nearest))
    made = recipe_from_gdf({LAYER: True}, "1-5", aggregate_output=True)
    assert made.fuse == recipe.fuse


@line("`--show_all_layers`")
def _(desk: Desk) -> None:
    listed = json.loads(desk.run("activations", MODEL, "--json"))
    assert f"gdf:{LAYER}" in {alias for a in listed for alias in a["aliases"]}


@line("`feature_visualization.py`")
def _(desk: Desk) -> None:
    store, out = desk.folder / "drawn", desk.folder / "features.png"
    desk.run("extract", desk.photos, "--recipe", desk.file(desk.recipe()), "--out", store)
    desk.run("show", store, "--out", out)
    assert Image.open(out).width > 300


@line("`configs/edit_config.py`")
def _(desk: Desk) -> None:
    found = desk.read(desk.recipe(["up_blocks.1.**.attn2.q"]))
    assert len(found.activations) == 3
    assert all(id.endswith("attn2.q") for id in found.activations)


@line("`configs/*.json` of published sets")
def _(desk: Desk) -> None:
    promised = "gdf-sd15 gdf-sdxl gdf-sd15-legacy gdf-sdxl-legacy gdf-sd15-amalgamation gdf-playground-amalgamation"
    assert set(promised.split()) <= set(preset_names())
    assert "cross-q" in desk.run("recipes", "gdf-sd15")


@line("the text and the resizing of each data set")
def _(desk: Desk) -> None:
    for name in ("spair", "horse21", "bedroom28", "ade20k", "cityscapes"):
        assert Recipe.load(f"gdf-sd15-{name}").prompt
    crops = [Reading.load(f"gdf-sd15-{name}").frame.load for name in ("ade20k", "cityscapes")]
    assert crops == [(512, 512), (1024, 1024)]


@line("several `--feature_id` folders of several models")
def _(desk: Desk) -> None:
    assert [p.model for p in Joined.load("gdf-xl-t").parts] == ["sdxl", "sd15", "playground-v2"]
    part = desk.recipe(["up_blocks.1"]).model_dump(mode="json")
    (desk.folder / "joint.yaml").write_text(
        json.dumps({"parts": [part, part | {"seed": 1}]}, indent=0).strip("{}").replace('"parts"', "parts", 1)
    )
    desk.run("extract", desk.photos, "--recipe", desk.folder / "joint.yaml", "--out", desk.folder / "joined")


def scarce(desk: Desk) -> Path:
    """Four labelled pictures to train on and two to score, in their layout."""
    root = desk.folder / "horse"
    for split, count in (("train", 4), ("test", 2)):
        folder = root / "real" / split
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            labels = np.kron(np.random.default_rng(i).integers(0, 3, (2, 2)), np.ones((16, 16), int))
            Image.fromarray((labels * 100).astype(np.uint8)).convert("RGB").save(folder / f"{i}.png")
            np.save(folder / f"{i}.npy", labels)
    return root


@line("`scarce_segmentation/task-pixel.py`")
def _(desk: Desk) -> None:
    apart = desk.recipe(["up_blocks.2", "up_blocks.3"])
    recipe, out = desk.file(apart.replace(fuse={"kind": "concat"})), desk.folder / "published"
    said = desk.run(
        "eval", "horse21", "--root", scarce(desk), "--recipe", recipe, "--pixels", 15, "--protocol", "gdf",
        "--prompts", "category", "--out", out,
    )  # fmt: skip
    assert "ensemble" in said
    assert "protocol gdf" in said
    assert (out / f"features-{apart.hash[:12]}").is_dir()  # the protocol joins, whatever the recipe does


@line("`--shuffle_dataset`")
def _(desk: Desk) -> None:
    recipe = desk.file(desk.recipe(["up_blocks.3"]))
    said = desk.run(
        "eval", "horse21", "--root", scarce(desk), "--recipe", recipe, "--classifier", "linear", "--splits", 5,
        "--out", desk.folder / "report",
    )  # fmt: skip
    assert re.search(r"mIoU \d+\.\d+ ± \d+\.\d+ over 5 random splits", said)
    assert len(json.loads((desk.folder / "report" / "report.json").read_text())["splits"]) == 5
    assert "data:image/jpeg" in (desk.folder / "report" / "report.html").read_text()


def pair_list(desk: Desk) -> Path:
    from diffeat.datasets.spair import read_spair

    pairs = list(read_spair(PAIRS, "test"))[:2]
    listed = [
        {
            "source_path": str(p.source), "target_path": str(p.target), "source_points": p.source_points,
            "target_points": p.target_points, "category": p.category, "source_bounding_box": p.source_box,
            "target_bounding_box": p.target_box,
        }
        for p in pairs
    ]  # fmt: skip
    file = desk.folder / "pairs.json"
    file.write_text(json.dumps(listed))
    return file


@line("`correspondence/task-corres.py --algorithm nn`")
def _(desk: Desk) -> None:
    model = ["--recipe", "gdf-sd15-spair", "-m", MODEL, "--size", SIZE]
    assert "PCK" in desk.run("eval", "spair-json", "--root", pair_list(desk), "--protocol", "gdf", *model)


@line("`correspondence/task-corres.py --algorithm conv`")
def _(desk: Desk) -> None:
    model = [
        "--recipe",
        "gdf-sd15-spair",
        "-m",
        MODEL,
        "--size",
        SIZE,
        "-a",
        f"gdf:{LAYER}",
        "--set",
        "fuse.grid=[16,16]",
    ]
    out = desk.folder / "convolution"
    desk.run("train", "convolution", "spair-json", "--root", pair_list(desk), *model, "--steps", 2, "--out", out)
    assert Joined.load(out / "recipe.yaml").join == "convolution"


@line("choosing layers by eye")
def _(desk: Desk) -> None:
    photos = desk.folder / "many"
    photos.mkdir()
    for i in range(3):
        picture(i).save(photos / f"{i}.png")
    out = desk.folder / "chosen.yaml"
    desk.run("select", photos, "-m", MODEL, "--budget", 24, "--rules", "paper", "--size", SIZE, "-o", out)
    assert Recipe.load(out).activations
    assert (desk.folder / "chosen-selection" / "selection.html").is_file()
