"""A tiny pipeline with files of techniques for it, and what tests ask of both."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import diffusers as D
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffeat import Recipe
from diffeat.backbones import Backbone
from diffeat.techniques import ControlNet, DenoiseFrom, Guidance, IPAdapter, LoRA, OtherWeights, Prompt
from tiny.pipelines import build

SIZE = 64


def fingerprint(pipeline: Any) -> str:
    """Every weight bit, every module's class, flags, hooks and attention processors, and the configurations."""
    digest = hashlib.sha256()
    for name, part in sorted(pipeline.components.items()):
        if not isinstance(part, nn.Module):
            continue
        for path, module in part.named_modules():
            hooks = [len(getattr(module, h)) for h in ("_forward_hooks", "_forward_pre_hooks")]
            seen = (name, path, type(module).__name__, module.training, hooks, sorted(map(str, vars(module))))
            digest.update(repr((*seen, type(getattr(module, "processor", None)).__name__)).encode())
        for path, weight in [*part.named_parameters(), *part.named_buffers()]:
            digest.update(f"{path}{weight.dtype}{weight.requires_grad}".encode())
            digest.update(weight.detach().contiguous().numpy().tobytes())
        config = getattr(part, "config", None)
        digest.update(repr((config, sorted(map(str, vars(config))) if config is not None else None)).encode())
    digest.update(repr(sorted(vars(pipeline))).encode())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.from_pipeline(build("sd15"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Any:
    """A ControlNet, a kohya LoRA of both networks, an IP-Adapter with its image encoder, another denoiser."""
    folder = tmp_path_factory.mktemp("techniques")
    torch.manual_seed(0)
    unet = backbone.pipeline.unet
    control = D.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    for p in control.parameters():
        p.data.normal_(std=0.2)
    control.save_pretrained(folder / "control")
    D.ControlNetModel.from_unet(
        D.UNet2DConditionModel.from_config({**unet.config, "cross_attention_dim": 16}),
        conditioning_embedding_out_channels=(4, 4, 8, 8),
    ).save_pretrained(folder / "other")
    save_kohya(folder / "lora.safetensors", unet, backbone.pipeline.text_encoder)
    wide = D.UNet2DConditionModel.from_config({**unet.config, "block_out_channels": (8, 16, 16, 16)})
    save_kohya(folder / "wide.safetensors", wide, None)
    save_ip_adapter(folder, unet)
    build("sd15", 1).unet.save_pretrained(folder / "tuned")
    return folder


def save_ip_adapter(folder: Path, unet: Any) -> None:
    torch.manual_seed(1)
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16,
            patch_size=8, projection_dim=8,
        )
    )  # fmt: skip
    width = unet.config.cross_attention_dim
    adapter: dict[str, torch.Tensor] = {}
    k = 1
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            for which in ("to_k_ip", "to_v_ip"):
                adapter[f"ip_adapter.{k}.{which}.weight"] = torch.randn(module.to_k.out_features, width)
            k += 2
    adapter["image_proj.proj.weight"] = torch.randn(4 * width, 8)
    adapter["image_proj.proj.bias"] = torch.randn(4 * width)
    adapter["image_proj.norm.weight"] = torch.ones(width)
    adapter["image_proj.norm.bias"] = torch.zeros(width)
    (folder / "models").mkdir()
    save_file(adapter, folder / "models" / "ip.safetensors")
    encoder.save_pretrained(folder / "models" / "image_encoder")


def save_kohya(file: Any, unet: nn.Module, text: nn.Module | None) -> None:
    state = {}
    for prefix, part in (("lora_unet", unet), ("lora_te", text)):
        for path, module in part.named_modules() if part is not None else ():
            if isinstance(module, nn.Linear) and path.endswith(
                ("attn2.to_q", "attn2.to_v", "q_proj", "v_proj", "out_proj")
            ):
                name = f"{prefix}_{path.replace('.', '_')}"
                state[f"{name}.lora_down.weight"] = torch.randn(2, module.in_features)
                state[f"{name}.lora_up.weight"] = torch.randn(module.out_features, 2)
                state[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(state, file)


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def recipe(*techniques: Any, **changes: Any) -> Recipe:
    base = Recipe.from_dict(
        {
            "model": "tiny",
            "prompt": "a cat",
            "frame": {"mode": "squash", "size": SIZE},
            "trajectory": {"kind": "noise", "timesteps": [200], "draws": 2},
            "activations": ["up_blocks.1", "up_blocks.2.attentions.0.transformer_blocks.0.attn2.q"],
            "techniques": list(techniques) or None,
        }
    )
    return base.replace(**changes) if changes else base


def all_of(files: Any) -> list[Any]:
    return [
        Prompt(text="a dog on a chair"),
        ControlNet(model=str(files / "control"), condition="soft-edges"),
        OtherWeights(source=str(files / "tuned"), scale=0.5),
        LoRA(path=str(files / "lora.safetensors"), scale=0.7),
        DenoiseFrom(start=260, steps=2),
        Guidance(scale=3),
        IPAdapter(path=str(files), file="ip.safetensors", scale=0.8),
    ]
