"""The denoiser of ADM (Dhariwal & Nichol, arXiv:2105.05233, section 3 and appendix A) from a state dict, as formulas.

Six-level models have 18 input blocks and 18 output blocks; here any number. Nothing of diffusers or of the library.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_state(
    widths: tuple[int, ...], per_level: int, attends: tuple[bool, ...], seed: int, inputs: int = 3, outputs: int = 6
) -> dict[str, Tensor]:
    """Weights of a model under the names of its release: ``per_level`` residual blocks a level on the way down."""
    g = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    emb = 4 * widths[0]

    def weight(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(*shape, generator=g) / math.sqrt(math.prod(shape[1:]))
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=g)

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels, generator=g)
        state[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=g)

    def block(name: str, a: int, b: int) -> None:
        norm(f"{name}.in_layers.0", a)
        weight(f"{name}.in_layers.2", b, a, 3, 3)
        weight(f"{name}.emb_layers.1", 2 * b, emb)
        norm(f"{name}.out_layers.0", b)
        weight(f"{name}.out_layers.3", b, b, 3, 3)
        if a != b:
            weight(f"{name}.skip_connection", b, a, 1, 1)

    def attention(name: str, c: int) -> None:
        norm(f"{name}.norm", c)
        weight(f"{name}.qkv", 3 * c, c, 1)
        weight(f"{name}.proj_out", c, c, 1)

    weight("time_embed.0", emb, widths[0])
    weight("time_embed.2", emb, emb)
    weight("input_blocks.0.0", widths[0], inputs, 3, 3)
    kept, now, number = [widths[0]], widths[0], 1
    for level, width in enumerate(widths):
        for _ in range(per_level):
            block(f"input_blocks.{number}.0", now, width)
            if attends[level]:
                attention(f"input_blocks.{number}.1", width)
            now, number = width, number + 1
            kept.append(now)
        if level < len(widths) - 1:
            block(f"input_blocks.{number}.0", now, now)
            number += 1
            kept.append(now)
    block("middle_block.0", now, now)
    attention("middle_block.1", now)
    block("middle_block.2", now, now)
    number = 0
    for level in reversed(range(len(widths))):
        for j in range(per_level + 1):
            block(f"output_blocks.{number}.0", now + kept.pop(), widths[level])
            now = widths[level]
            if attends[level]:
                attention(f"output_blocks.{number}.1", now)
            if level and j == per_level:
                block(f"output_blocks.{number}.{1 + attends[level]}", now, now)
            number += 1
    norm("out.0", now)
    weight("out.2", outputs, now, 3, 3)
    return state


def forward(
    state: dict[str, Tensor], x: Tensor, t: Tensor, per_level: int, head_channels: int
) -> tuple[Tensor, list[Tensor]]:
    """The prediction, and the output of every output block."""

    def linear(name: str, v: Tensor) -> Tensor:
        return F.linear(v, state[f"{name}.weight"], state[f"{name}.bias"])

    def conv(name: str, v: Tensor) -> Tensor:
        w = state[f"{name}.weight"]
        return F.conv2d(v, w, state[f"{name}.bias"], padding=w.shape[-1] // 2)

    def norm(name: str, v: Tensor) -> Tensor:
        return F.group_norm(v, 32, state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    def block(name: str, v: Tensor, change: str = "") -> Tensor:
        resize = {
            "": lambda u: u,
            "up": lambda u: u.repeat_interleave(2, 2).repeat_interleave(2, 3),
            "down": lambda u: F.avg_pool2d(u, 2),
        }[change]
        h = conv(f"{name}.in_layers.2", resize(F.silu(norm(f"{name}.in_layers.0", v))))
        scale, shift = linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None].chunk(2, 1)
        h = conv(f"{name}.out_layers.3", F.silu(norm(f"{name}.out_layers.0", h) * (1 + scale) + shift))
        v = resize(v)
        return h + (conv(f"{name}.skip_connection", v) if f"{name}.skip_connection.weight" in state else v)

    def attention(name: str, v: Tensor) -> Tensor:
        b, c, height, width = v.shape
        flat = norm(f"{name}.norm", v).flatten(2)
        qkv = F.conv1d(flat, state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
        heads = []
        for three in qkv.split(3 * head_channels, 1):  # a head's query, key and value lie together
            q, k, value = three.split(head_channels, 1)
            weights = (q.transpose(1, 2) @ k / math.sqrt(head_channels)).softmax(-1)
            heads.append(value @ weights.transpose(1, 2))
        out = F.conv1d(torch.cat(heads, 1), state[f"{name}.proj_out.weight"], state[f"{name}.proj_out.bias"])
        return v + out.reshape(b, c, height, width)

    half = len(state["time_embed.0.weight"][0]) // 2
    angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
    emb = linear("time_embed.2", F.silu(linear("time_embed.0", torch.cat((angles.cos(), angles.sin()), 1))))

    h = conv("input_blocks.0.0", x)
    kept = [h]
    count = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("input_blocks."))
    for k in range(1, count):
        h = block(f"input_blocks.{k}.0", h, "" if k % (per_level + 1) else "down")
        if f"input_blocks.{k}.1.qkv.weight" in state:
            h = attention(f"input_blocks.{k}.1", h)
        kept.append(h)
    h = block("middle_block.2", attention("middle_block.1", block("middle_block.0", h)))
    outputs = []
    for k in range(count):
        h = block(f"output_blocks.{k}.0", torch.cat((h, kept.pop()), 1))
        part = 1
        if f"output_blocks.{k}.1.qkv.weight" in state:
            h, part = attention(f"output_blocks.{k}.1", h), 2
        if f"output_blocks.{k}.{part}.in_layers.0.weight" in state:
            h = block(f"output_blocks.{k}.{part}", h, "up")
        outputs.append(h)
    return conv("out.2", F.silu(norm("out.0", h))), outputs
