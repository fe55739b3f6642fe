"""ControlNet and LoRA features, null twins and Img2Img latents against the recorded ones."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from conftest import golden_roots
from diffeat.activations import Taps
from diffeat.backbones import Backbone
from diffeat.techniques import ControlNet, Guidance, LoRA, Scene, Session
from test_golden_gdf import TOLERANCE, error

ROOTS = [root / "gate" for root in golden_roots() if (root / "gate" / "null_checks").is_dir()]
FOLDERS = [pytest.param(p, id=p.name) for root in ROOTS for p in sorted((root / "null_checks").glob("case*"))]
IDS = ["up-level0-upsampler-out", "up-level1-upsampler-out", "up-level2-upsampler-out", "up-level3-repeat2-vit-out"]


@cache
def backbone(root: Path) -> Backbone:
    return Backbone.from_pretrained(str(root / "pipeline"))


class Case:
    def __init__(self, folder: Path) -> None:
        root = folder.parent.parent
        self.backbone = backbone(root)
        self.case = json.loads((folder / "case.json").read_text())
        self.inputs = load_file(folder / "inputs.safetensors")
        self.expected = load_file(folder / "expected.safetensors") | load_file(folder / "expected_img2img.safetensors")
        self.control = np.array(Image.open(folder / "control.png").convert("RGB"))
        self.root = root
        w, h = self.case["image_wh"]
        self.scene = Scene(folder.name, torch.zeros(3, h, w), self.case["prompt"])

    def techniques(self, name: str) -> list[Any]:
        control, lora = self.case["controlnet_scale"], self.case["lora_scale"]

        def shown(_: Any) -> Any:
            return self.control

        files = self.root / "techniques"
        known = {
            "none": lambda: None,
            "controlnet": lambda: ControlNet(model=str(files / "controlnet"), condition=shown, scale=control),
            "controlnet_null": lambda: ControlNet(model=str(files / "controlnet_null"), condition=shown, scale=control),
            "lora": lambda: LoRA(path=str(files), file="lora.safetensors", scale=lora),
            "lora_null": lambda: LoRA(path=str(files), file="lora_null.safetensors", scale=lora),
            "lora_conv": lambda: LoRA(path=str(files), file="lora_conv.safetensors", scale=lora),
        }
        return [t for t in (known[part]() for part in name.split("+")) if t is not None]

    @torch.no_grad()
    def features(self, session: Session, techniques: Any, t: int) -> dict[str, Tensor]:
        noisy = self.inputs[f"x_t.{t}"]
        with session.use(techniques) as steered:
            rows = steered.prepare([self.scene]).take([0] * len(noisy))
            with Taps(self.backbone.denoiser, [f"gdf:{i}" for i in IDS], stop=False) as taps:
                found = taps.run(**steered.inputs(noisy, t, rows))
            prediction = steered.predict(noisy, t, rows)
        return {i: found[f"gdf:{i}"] for i in IDS} | {"unet-out": prediction}


@pytest.mark.parametrize("folder", FOLDERS)
def test_features(folder: Path) -> None:
    case = Case(folder)
    with Session(case.backbone) as session:
        for t in case.case["timesteps"]:
            for name in ("none", "controlnet", "lora", "controlnet+lora", "lora_conv"):
                for part, found in case.features(session, case.techniques(name), t).items():
                    assert error(found, case.expected[f"{name}.t{t}.{part}"]) <= TOLERANCE, (name, part)


@pytest.mark.parametrize("folder", FOLDERS)
def test_null_twins_equal_the_base_bit_for_bit(folder: Path) -> None:
    case = Case(folder)
    t = case.case["timesteps"][0]
    nulls = [case.techniques(n) for n in ("controlnet_null", "lora_null", "controlnet_null+lora_null")]
    nulls += [[x.null() for x in case.techniques(n)] for n in ("controlnet", "lora", "lora_conv", "controlnet+lora")]
    nulls += [[Guidance(scale=5).null()]]
    with Session(case.backbone) as session:
        base = case.features(session, None, t)
        for techniques in nulls:
            found = case.features(session, techniques, t)
            assert all(torch.equal(found[i], base[i]) for i in base), techniques


@pytest.mark.parametrize("folder", FOLDERS)
def test_img2img(folder: Path) -> None:
    case = Case(folder)
    model = case.backbone
    for run in case.case["img2img"]:
        techniques = case.techniques(run["technique"])
        if run["guidance"] != 1:
            techniques.append(Guidance(scale=run["guidance"]))
        times = run["timesteps"]
        with torch.no_grad(), Session(model) as session, session.use(techniques) as steered:
            rows = steered.prepare([case.scene]).take([0] * len(case.inputs["noise"]))
            noisy = model.noise(case.inputs["latents"], times[0], case.inputs["noise"])
            first = model.estimate_clean(noisy, times[0], steered.predict(noisy, times[0], rows))
            found = steered.descend(noisy, [*times, 0], rows)
        assert error(first, case.expected[f"{run['name']}.pred_x0_first"]) <= TOLERANCE
        assert error(found, case.expected[f"{run['name']}.latents"]) <= TOLERANCE
