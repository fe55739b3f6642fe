"""Names that other systems use for the same activations.

* ``gdf:…`` Generic Diffusion Feature, for UNets, PixArt, Hunyuan-DiT and FLUX.1. Levels, repeats and blocks
  count from 0 in execution order. ``gdf:vit-blockB-out`` of a FLUX double block is the block's true image
  stream; the original code returns the feed-forward's input there a second time.
* ``dift:i`` DIFT: output of ``up_blocks.i``; of unconditional UNets (ADM) the output of the i-th decoder block, counted
  from 0 over all levels, as its ``output_blocks``: with its attention and, at the end of a level, the upsampler.
* ``dhf:n`` Diffusion Hyperfeatures: the n-th decoder resnet, counted from 1 as in its tables (1 to 12 in
  Stable Diffusion 1 and 2), before its residual sum.
* ``ditf:k`` DiTF: modulated input of the attention of block k; FLUX counts its single blocks on after the
  double ones.
* ``cleandift:mid``, ``cleandift:us1`` to ``us10``: the maps CleanDIFT was trained on, for four-level UNets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import nn

from diffeat.activations.anatomy import class_name, is_unet

PREFIXES = ("gdf", "dift", "dhf", "ditf", "cleandift")

_CLEANDIFT = {
    "mid": "mid_block",
    "us1": "up_blocks.0.resnets.0",
    "us2": "up_blocks.0.resnets.1",
    "us3": "up_blocks.0",
    "us4": "up_blocks.1.attentions.0",
    "us5": "up_blocks.1.attentions.1",
    "us6": "up_blocks.1",
    "us7": "up_blocks.2.attentions.0",
    "us8": "up_blocks.2.attentions.1",
    "us9": "up_blocks.2",
    "us10": "up_blocks.3.attentions.0",
}

_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.(.+))?")
_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)(?:\.(.+))?")
_BLOCK = re.compile(r"(transformer_blocks|single_transformer_blocks|blocks)\.(\d+)(?:\.(.+))?")
_GDF_STEM = {"conv_in.in": "unet-in", "conv_in": "unet-after-conv-in", "conv_out": "unet-out"}
_GDF_BLOCK = {
    None: "out",
    "ff.inner": "ffn-inner",
    **{f"attn1.{s}": f"self-{s}" for s in ("q", "k", "v", "map")},
    **{f"attn2.{s}": f"cross-{s}" for s in ("q", "k", "v", "map")},
}
_GDF_FLUX = {
    None: "out",
    "attn": "attn-out",
    "attn.q": "q",
    "attn.k": "k",
    "attn.v": "v",
    "attn.cross_map": "cross-map",
    "attn.self_map": "self-map",
    "ff.adaln": "norm-out",
    "ff.inner": "ffn-inner",
}
_DITF_STACKS = ("transformer_blocks", "joint_transformer_blocks", "single_transformer_blocks", "blocks", "layers")


def aliases_of(denoiser: nn.Module, ids: Iterable[str]) -> Iterator[tuple[str, str]]:
    """``(alias, id)`` for every alias that some id of this denoiser answers to."""
    ids = list(ids)
    known = set(ids)
    if is_unet(denoiser):
        yield from _of_unet(denoiser, ids, known)
        return
    if class_name(denoiser) in ("PixArtTransformer2DModel", "HunyuanDiT2DModel", "FluxTransformer2DModel"):
        yield from ((f"gdf:{name}", id) for id in ids if (name := _gdf_transformer(denoiser, id)))
    stacks = ((stack, getattr(denoiser, stack, None)) for stack in _DITF_STACKS)
    inputs = [f"{stack}.{i}.adaln" for stack, b in stacks if isinstance(b, nn.ModuleList) for i in range(len(b))]
    yield from ((f"ditf:{k}", id) for k, id in enumerate(inputs) if id in known)


def _of_unet(denoiser: nn.Module, ids: list[str], known: set[str]) -> Iterator[tuple[str, str]]:
    yield from ((f"gdf:{name}", id) for id in ids if (name := _gdf_unet(id)))
    ups = getattr(denoiser, "up_blocks", ())
    yield from ((f"dift:{i}", id) for i, id in enumerate(_dift(denoiser, known)))
    counts = [(i, len(getattr(block, "resnets", ()))) for i, block in enumerate(ups)]
    resnets = [f"up_blocks.{i}.resnets.{j}.increment" for i, count in counts for j in range(count)]
    yield from ((f"dhf:{k}", id) for k, id in enumerate(resnets, 1) if id in known)
    if all(id in known for id in _CLEANDIFT.values()):
        yield from ((f"cleandift:{name}", id) for name, id in _CLEANDIFT.items())


def _dift(denoiser: nn.Module, known: set[str]) -> Iterator[str]:
    """What DIFT counts, in its order."""
    for i, block in enumerate(getattr(denoiser, "up_blocks", ())):
        if class_name(denoiser) == "UNet2DModel":
            for j in range(len(getattr(block, "resnets", ())) - 1):
                attention = f"up_blocks.{i}.attentions.{j}"
                yield attention if attention in known else f"up_blocks.{i}.resnets.{j}"
        yield f"up_blocks.{i}"


def _gdf_unet(id: str) -> str | None:
    if id in _GDF_STEM:
        return _GDF_STEM[id]
    if match := _MID.fullmatch(id):
        part, repeat, rest = match[1], int(match[2]), match[3]
        if part == "resnets":
            return _gdf_end(f"mid-repeat{repeat}-res", rest)
        return _gdf_vit("mid", rest) if repeat == 0 else None
    if not (match := _LEVEL.fullmatch(id)):
        return None
    side, level, part, repeat, rest = match[1], match[2], match[3], match[4], match[5]
    if part == "resnets":
        return _gdf_end(f"{side}-level{level}-repeat{repeat}-res", rest)
    if part == "attentions":
        return _gdf_vit(f"{side}-level{level}-repeat{repeat}", rest)
    return _gdf_end(f"{side}-level{level}-{part[:-1]}", rest) if repeat == "0" else None


def _gdf_end(head: str, rest: str | None) -> str | None:
    end = {None: "out", "increment": "increment"}.get(rest)
    return f"{head}-{end}" if end else None


def _gdf_vit(head: str, rest: str | None) -> str | None:
    if rest is None:
        return f"{head}-vit-out"
    match = re.fullmatch(r"transformer_blocks\.(\d+)(?:\.(.+))?", rest)
    end = _GDF_BLOCK.get(match[2]) if match else None
    return f"{head}-vit-block{match[1]}-{end}" if match and end else None


def _gdf_transformer(denoiser: nn.Module, id: str) -> str | None:
    match = _BLOCK.fullmatch(id)
    if not match:
        return None
    stack, number, rest = match[1], int(match[2]), match[3]
    kind = class_name(denoiser)
    if kind == "FluxTransformer2DModel":
        end = _GDF_FLUX.get(rest)
        if stack == "single_transformer_blocks":
            number += len(dict(denoiser.get_submodule("transformer_blocks").named_children()))
    else:
        end = None if kind == "HunyuanDiT2DModel" and rest is None else _GDF_BLOCK.get(rest)
    return f"vit-block{number}-{end}" if end else None


# What an unknown name looks like, to say whose it is.
_OWNERS = (
    (re.compile(r"gdf:(unet-|(down|up)-level|mid-)"), "UNets"),
    (
        re.compile(r"gdf:vit-block\d+-(self-[qkv]|cross-q|self-map|cross-map|ffn-inner|out)$"),
        "PixArt, Hunyuan-DiT or FLUX.1",
    ),
    (re.compile(r"gdf:vit-block\d+-(q|k|v|attn-out|norm-out)$"), "FLUX.1"),
    (re.compile(r"gdf:"), "Generic Diffusion Feature, which knows UNets, PixArt, Hunyuan-DiT and FLUX.1"),
    (re.compile(r"dift:|dhf:"), "UNets"),
    (re.compile(r"cleandift:"), "four-level UNets (Stable Diffusion 1 and 2)"),
    (re.compile(r"ditf:"), "diffusion transformers"),
    (re.compile(r"(up_blocks|down_blocks|mid_block)\b"), "UNets"),
    (re.compile(r"single_transformer_blocks\b"), "FLUX-like transformers and AuraFlow"),
    (re.compile(r"joint_transformer_blocks\b"), "AuraFlow"),
    (re.compile(r"transformer_blocks\b"), "PixArt, DiT, SD3, FLUX, Qwen-Image and their like"),
    (re.compile(r"blocks\b"), "Hunyuan-DiT"),
    (re.compile(r"(layers|noise_refiner|context_refiner)\b"), "Lumina 2 and Z-Image"),
)


def owner_of(name: str) -> str | None:
    """Which models a name of this form belongs to, or ``None``."""
    return next((owner for form, owner in _OWNERS if form.match(name)), None)
