"""OpenAI's guided-diffusion checkpoints (ADM; Dhariwal & Nichol, arXiv:2105.05233) as stock pipelines.

The released unconditional models (``256x256_diffusion_uncond.pt`` and those of LSUN) are an architecture that diffusers
has as ``UNet2DModel``: residual blocks that scale and shift by the timestep and that change the resolution, attention
with heads of 64 channels, a learned variance. Their weights only go by other names, and queries, keys and
values of a head lie together in one tensor. Everything but the width of a head is told by the weights.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffeat.backbones.files import read_tensors, said
from diffeat.errors import ModelError
from diffeat.files import new_folder

_TOP = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
_INNER = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "norm": "group_norm",
    "proj_out": "to_out.0",
}


def convert_guided_diffusion(
    file: str | Path, folder: str | Path, *, size: int = 256, head_channels: int = 64, force: bool = False
) -> Path:
    """Write an unconditional checkpoint of guided-diffusion as the folder of a stock ``DDPMPipeline``.

    Args:
        file: The ``.pt`` file; only tensors are read from it.
        folder: Made if missing.
        size: Side of the images that it was trained on.
        head_channels: ``--num_head_channels`` of its training.
        force: Whether a pipeline in the folder may be replaced.

    Returns:
        The folder, which is a model as recipes name it.

    Raises:
        ModelError: The file is no such checkpoint, or is conditional.
        InvalidValueError: There is a pipeline already.
    """
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    root = new_folder(folder, ["model_index.json", "unet/", "scheduler/"], force=force)
    state = read_tensors(Path(file))
    try:
        levels, config = _architecture(state, head_channels)
        with torch.device("meta"):
            unet = UNet2DModel(sample_size=size, **config)
        unet.load_state_dict(_renamed(state, levels, head_channels), assign=True)
    except (LookupError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{file} is no unconditional checkpoint of guided-diffusion with {head_channels} channels a head "
            f"({said(error)})."
        ) from None
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        variance_type="learned_range" if config["out_channels"] == 6 else "fixed_large",
    )
    DDPMPipeline(unet=unet.float(), scheduler=scheduler).save_pretrained(root, safe_serialization=True)
    return root


def _architecture(state: dict[str, Tensor], head_channels: int) -> tuple[int, dict[str, Any]]:
    """Blocks of a level on the way up, and the configuration of the stock model."""
    if any(name.startswith("label_emb.") for name in state):
        raise ValueError("it is conditioned on classes")

    def blocks_with(part: str) -> list[int]:
        found = (re.match(rf"output_blocks\.(\d+)\.{part}\.in_layers\.0\.weight", name) for name in state)
        return [int(match[1]) for match in found if match]

    count = max(blocks_with("0")) + 1
    per_level = min(blocks_with("[12]"), default=count - 1) + 1  # of the first that enlarges
    starts = range(count - per_level, -1, -per_level)  # of the levels, from the finest
    widths = [len(state[f"output_blocks.{k}.0.out_layers.3.weight"]) for k in starts]
    attends = [f"output_blocks.{k}.1.qkv.weight" in state for k in starts]
    width = widths[0]
    config = {
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "out_channels": len(state["out.2.weight"]),
        "layers_per_block": per_level - 1,
        "block_out_channels": tuple(widths),
        "down_block_types": tuple("AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends),
        "up_block_types": tuple("AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attends)),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": (
            "scale_shift" if len(state["input_blocks.1.0.emb_layers.1.weight"]) == 2 * width else "default"
        ),
        "attention_head_dim": head_channels,
        "attn_norm_num_groups": 32,
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
    }
    return per_level, config


def _renamed(state: dict[str, Tensor], per_level: int, head_channels: int) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        *place, leaf = name.split(".")
        head, rest = _place(place, per_level)
        if rest == "qkv":
            parts = value.unflatten(0, (-1, 3, head_channels)).unbind(1)
            for letter, part in zip("qkv", parts, strict=True):
                renamed[f"{head}.to_{letter}.{leaf}"] = _linear(part.flatten(0, 1))
        else:
            inner = _INNER[rest] if rest else ""
            value = _linear(value) if inner == "to_out.0" else value
            renamed[".".join(filter(None, (head, inner, leaf)))] = value
    return renamed


def _place(place: list[str], per_level: int) -> tuple[str, str]:
    """The stock name of the block that a parameter is in, and the parameter's place there."""
    for length in (3, 2):
        if (head := _TOP.get(".".join(place[:length]))) is not None:
            return head, ".".join(place[length:])
    side, k, part, *inner = place
    rest = ".".join(inner)
    if side == "input_blocks":  # each level is followed by a block that halves the resolution
        level, j = divmod(int(k) - 1, per_level)
        if j == per_level - 1:
            return f"down_blocks.{level}.downsamplers.0", rest
        return f"down_blocks.{level}.{'attentions' if part == '1' else 'resnets'}.{j}", rest
    if side != "output_blocks":
        raise ValueError(f"it holds {'.'.join(place)}")
    level, j = divmod(int(k), per_level)
    if part == "0":
        return f"up_blocks.{level}.resnets.{j}", rest
    attention = inner[0] in ("norm", "qkv", "proj_out")
    return f"up_blocks.{level}.{f'attentions.{j}' if attention else 'upsamplers.0'}", rest


def _linear(value: Tensor) -> Tensor:
    """The weight of a convolution of length 1 as that of a linear layer."""
    return value.flatten(1) if value.ndim > 1 else value
