"""Python on the pages beside ``python.md`` runs as it stands, with small models in place of large ones, and what the
text around a block takes for granted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import diffeat
from diffeat import Backbone, Extractor, Reading, zoo
from diffeat.datasets import open_dataset, write_labelled_samples, write_samples, write_toyworld_pairs
from support.techniques import save_kohya
from test_docs_commands import PAGES
from test_docs_python import BLOCK
from tiny.pipelines import build

PHOTOS = ("cat.jpg", "dog.jpg", "horse.jpg", "a.png", "b.png", "c.png")
#: By page: what takes the place of models that are large, or elsewhere, and of work that is long.
INSTEAD: dict[str, dict[str, str]] = {
    "README.md": {'"dift-sd21"': '"tiny-dift"'},
    "content-shift.md": {
        '"dift-sd15").replace(': '"dift-sd15").replace(model="sd15", **{"trajectory.draws": 1, "frame.size": 64},',
        '"lllyasviel/sd-controlnet-canny"': '"control"',
        'ControlNet(model="…"), LoRA(path="…")': 'ControlNet(model="control"), LoRA(path="horses.safetensors")',
    },
    "ditf.md": {
        'from_recipe("ditf-flux")': 'from_recipe("ditf-tiny")',
        'load("ditf-flux")': 'load("ditf-flux").replace(activations=["ditf:0"], **{"refine.channels": "detected"})',
        '"black-forest-labs/FLUX.1-dev"': '"flux"',
        "pipeline.enable_model_cpu_offload()": "",  # there is no accelerator
    },
    "heads.md": {"steps=500": "steps=2, every=2"},
    "hyperfeatures.md": {
        "TrainSettings()": "TrainSettings(steps=2, projection=128, validate_every=2)",
        "steps=50)": "steps=2)",
        '"inversion", 50': '"inversion", 2',
    },
    "models.md": {"CompVis/cleandift": "run/weights", "cleandift_sd21_full": "adapters", "us6": "up_blocks.1"},
    "recipes.md": {
        'pipe = StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5", '
        'dtype=torch.float16).to(\n    "cuda"\n)': "",
    },
}


def _photos() -> dict[str, Any]:
    photos = write_samples(Path("photos"))
    for i, name in enumerate((*PHOTOS, "photos/more.jpg")):
        Image.open(photos[i % len(photos)]).convert("RGB").save(name)
    return {}


def _pipe() -> dict[str, Any]:
    from diffusers import DiffusionPipeline

    pipe: Any = DiffusionPipeline.from_pretrained(zoo.path("tiny-unet"))
    text, _ = pipe.encode_prompt("a cat", "cpu", 1, False)
    latents = torch.randn(1, pipe.unet.config.in_channels, 16, 16)
    return {"pipe": pipe, "latents": latents, "text": text, "points": [(150, 120)]}


def _clean() -> dict[str, Any]:
    from diffeat.training import CleanSettings, train_clean

    extractor = Extractor.from_recipe("tiny-unet")
    cleaned = train_clean(extractor, [Path("a.png")], "run", CleanSettings(steps=1, batch=1))
    return {
        "feature": Extractor.from_recipe(Reading.load(cleaned.recipe).replace(activations=["up_blocks.1"])).extract(
            ["a.png"]
        )[0]
    }


def _steered() -> dict[str, Any]:
    from diffusers import ControlNetModel

    pipeline = build("sd15")
    pipeline.save_pretrained("sd15")
    ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(4, 4, 8, 8)).save_pretrained(
        "control"
    )
    save_kohya("horses.safetensors", pipeline.unet, pipeline.text_encoder)
    Path("captions.csv").write_text("image,prompt\nhorse.jpg,a horse\n")
    backbone = Backbone.from_pretrained("sd15")
    pixels = torch.rand(3, 64, 64) * 2 - 1
    return {"backbone": backbone, "pixels": pixels, "noisy": backbone.encode_images(pixels[None]).mean}


def _probe() -> dict[str, Any]:
    from diffeat.tasks import fit_pixel_probe

    write_labelled_samples(Path("labelled"))
    data = open_dataset("folder", "labelled", "train", kind="label maps").limited(2)
    fit_pixel_probe(data, diffeat.load_source("tiny-unet")).save("run")
    return {}


def _store() -> dict[str, Any]:
    from diffeat.extraction import extract_to_store
    from diffeat.progress import bar
    from diffeat.storage import FeatureStore

    source = diffeat.load_source("tiny-unet")
    with FeatureStore.of("features", source) as store:
        extract_to_store(source, [Path(name) for name in PHOTOS], store)
    return {"source": source, "bar": bar, "features": source.extract(["cat.jpg"])[0]}


def _toy() -> dict[str, Any]:
    write_toyworld_pairs("toy", size=64, classes=["dog", "car"], images={"trn": 3, "val": 3, "test": 2}, pairs=2)
    return {}


def _walks() -> dict[str, Any]:
    _toy()
    return {"pixels": torch.rand(1, 3, 128, 128) * 2 - 1}


#: By page: what is there before its first block, and the names that its text explains.
BEFORE: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": _pipe,
    "app.md": lambda: {"extractor": Extractor.from_recipe("tiny-dift")},
    "content-shift.md": _steered,
    "datasets.md": _probe,
    "ditf.md": lambda: {"streams": torch.randn(2, 9, 3072), "_": build("flux").save_pretrained("flux")},
    "heads.md": _toy,
    "hyperfeatures.md": _walks,
    "models.md": _clean,
    "recipes.md": lambda: {**_pipe(), "timestep": 781.0},
    "segmentation.md": _probe,
    "store.md": _store,
}
WITH_CODE = [page for page in PAGES if page.name != "python.md" and BLOCK.search(page.read_text(encoding="utf-8"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_code_on_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = {**_photos(), **BEFORE.get(page.name, dict)()}
    text, unused = page.read_text(encoding="utf-8"), dict(INSTEAD.get(page.name, {}))
    for block in BLOCK.finditer(text):
        code = block.group(1)
        for old, new in INSTEAD.get(page.name, {}).items():
            if old in code:
                code = code.replace(old, new)
                unused.pop(old, None)
        place = "\n" * text.count("\n", 0, block.start(1))  # lines of errors are those of the page
        exec(compile(place + code, str(page), "exec"), space)
    assert unused == {}
