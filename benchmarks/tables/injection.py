"""Massive channels put into a diffusion transformer by its weights alone, to test what finds and what removes them.

In the first block the output projection of the attention is made to write a large value of constant sign to the chosen
channels of every token, and that block's gate spikes there, as in trained models. The residual stream carries it
through all later blocks. Nothing but weights is changed, so every real code path runs as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffeat.activations import Catalogue, ModulatedSite, Taps, modulated_sites
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.extraction.detect import calibration_pictures
from diffeat.features import Picture
from diffeat.geometry import FrameSpec
from diffeat.trajectories import keyed_normal

_GATE = 8.0
_LEARNED = ("Lumina2Transformer2DModel", "ZImageTransformer2DModel", "AuraFlowTransformer2DModel")


def inject_massive(
    backbone: Backbone,
    channels: Sequence[int],
    *,
    size: float = 60.0,
    spread: float = 0.1,
    suppress: float = 0.0,
    timestep: float = 300.0,
    picture: tuple[int, int] | None = None,
    seed: int = 0,
) -> None:
    """Make channels of the residual stream massive, in place.

    Args:
        size: Their value in every token; signs alternate.
        spread: Standard deviation over tokens, as a share of ``size``.
        suppress: Taken off the scale of later blocks there, as trained models learn to: 0.9 leaves a tenth.
        timestep: At which the value is met; the gate makes it follow the timestep.
        picture: Size (width, height) at which it is measured; the model's own if not given.
        seed: Of what the spread depends on.

    Raises:
        InvalidValueError: If the model has no AdaLN.
    """
    denoiser = backbone.denoiser
    found = [a for a in Catalogue.of(backbone) if a.kind == "adaln"]
    if not found:
        raise InvalidValueError(f"{type(denoiser).__name__} has no AdaLN, so there is no gate to put channels in by.")
    sites = modulated_sites(backbone, [a.id for a in found])
    first = sites[0]
    width = first.norm.channels
    with torch.no_grad():
        _add(denoiser, first, "gate", channels, _GATE)
        for site in sites[1:]:
            if site.block != first.block:
                _add(denoiser, site, "scale", channels, -suppress)
        linear = _writer(denoiser, first)
        inputs = _inputs(backbone, timestep, picture or backbone.default_size, seed)
        seen: list[Tensor] = []
        handle = linear.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        gate = torch.ones(width)
        with Taps(denoiser, first.gate or first.raw, stop=False) as taps:
            denoiser(**inputs)
            if first.gate is not None and not _by_embedder(denoiser):
                gate = taps.collect()[first.gate][0]
        handle.remove()
        tokens = seen[0].flatten(0, -2).float()
        for k, channel in enumerate(channels):
            value = size * (-1) ** k / float(gate[channel])
            _write(linear, tokens, channel, value, spread * abs(value), seed + k)


def _by_embedder(denoiser: nn.Module) -> bool:
    """Whether the patch embedding has to carry the channels: gates of these models end at 1, or nothing has a bias."""
    return type(denoiser).__name__ in _LEARNED


def _writer(denoiser: nn.Module, site: ModulatedSite) -> nn.Linear:
    if _by_embedder(denoiser):
        names = ("x_embedder", "pos_embed.proj", "all_x_embedder.2-1")
        return next(m for n, m in denoiser.named_modules() if n in names and isinstance(m, nn.Linear))
    block = denoiser.get_submodule(site.block)
    attention = getattr(block, "attn", None) or block.attn1
    return attention.to_out[0]  # type: ignore[union-attr, index, return-value]


def _add(denoiser: nn.Module, site: ModulatedSite, part: str, channels: Sequence[int], value: float) -> None:
    """Add to a modulation parameter, where it has a bias of its own."""
    index = getattr(site.rule, part)
    if index is None or not value:
        return
    block = denoiser.get_submodule(site.block)
    place = [index * site.norm.channels + c for c in channels]
    if site.rule.table:
        block.scale_shift_table.view(-1)[place] += value  # type: ignore[operator, union-attr]
    elif site.rule.argument is None:
        linears = [m for m in block.get_submodule(site.rule.child).modules() if isinstance(m, nn.Linear)]
        if linears[0].bias is not None:
            linears[0].bias[place] += value


def _write(linear: nn.Linear, tokens: Tensor, channel: int, mean: float, std: float, seed: int) -> None:
    """Make an output of a linear layer have a mean and a standard deviation over tokens."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(tokens.shape[1], generator=generator).to(tokens)
    row *= std / (tokens @ row).std().clamp(min=1e-12)
    rest = mean - (tokens @ row).mean()
    if linear.bias is None:
        centre = tokens.mean(0)
        row += rest * centre / centre.square().sum()
    else:
        linear.bias[channel] = rest.to(linear.bias)
    linear.weight[channel] = row.to(linear.weight)


def _inputs(backbone: Backbone, timestep: float, size: tuple[int, int], seed: int) -> dict[str, object]:
    """A call of the denoiser on two pictures of the toy world."""
    frame = FrameSpec(mode="squash", size=size)
    images = [Picture.of(p).image for p in calibration_pictures(2)]
    pixels = torch.stack([frame.frame(i.size, multiple=backbone.multiple).pixels(i) for i in images])
    latents = backbone.encode_images(pixels).mean
    eps = keyed_normal(latents.shape, seed=seed, image="injection", stream="diffusion")
    noisy = backbone.noise(latents, timestep, eps.to(latents))
    return backbone.denoiser_inputs(noisy, timestep, backbone.condition(["", ""], size=size))
