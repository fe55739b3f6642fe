"""Between pixels and normalised latents.

A variational autoencoder gives a Gaussian per latent cell, :math:`z = \\mu + \\sigma \\epsilon`. Denoisers see it
normalised per channel, :math:`(z - m) s`, where :math:`m, s` come from the autoencoder's configuration
(``shift_factor`` and ``scaling_factor``; ``latents_mean`` and ``latents_std``) or, for FLUX.2, from the running
statistics of its batch norm over 2×2 patches. The normalisation is affine, so the posterior stays Gaussian:
:math:`((\\mu - m) s) + (\\sigma s) \\epsilon`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from diffeat.backbones.fingerprint import fingerprint, writes_into
from diffeat.backbones.memory import current, key_of
from diffeat.backbones.sharing import alone
from diffeat.errors import ModelError
from diffeat.memory import Parts, moved

#: Mean and standard deviation.
Moments = tuple[Tensor, Tensor]
_PIXELS_AT_ONCE = 4 * 512 * 512  # the autoencoder's activations outweigh the denoiser's: bound them


@dataclass(frozen=True)
class LatentPosterior:
    """Normalised latents as mean and standard deviation (0 where encoding is deterministic)."""

    mean: Float[Tensor, "b c h w"] = field(repr=False)
    std: Float[Tensor, "b c h w"] = field(repr=False)

    def sample(self, eps: Float[Tensor, "#b c h w"]) -> Float[Tensor, "b c h w"]:
        """The draw that belongs to the standard normal ``eps``: the stock draw, normalised, for the same ``eps``."""
        return self.mean + self.std * eps.to(self.mean)

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows: int | slice | list[int]) -> LatentPosterior:
        """The posterior of some rows; of one row by its number, still with a batch axis.

        Raises:
            IndexError: If there is no such row.
        """
        if isinstance(rows, int):
            row = range(len(self))[rows]
            rows = slice(row, row + 1)
        return LatentPosterior(self.mean[rows], self.std[rows])


class Autoencoder:
    """The autoencoder (KL, DC, tiny, Qwen-Image, FLUX.2) of a pipeline, or nothing at all for denoisers of pixels."""

    def __init__(self, vae: Any | None) -> None:
        self.vae = vae
        self.patched = vae is not None and hasattr(vae, "bn")
        self.video = vae is not None and hasattr(vae, "temperal_downsample")
        self._parts: dict[tuple[int, int], Parts] = {}
        self._known: tuple[int, str] | None = None
        channels = 0 if vae is None else vae.config.get("latent_channels") or vae.config.get("z_dim") or 0
        if channels:
            self._check_normalisation(torch.zeros(1, channels * (4 if self.patched else 1), 1, 1))

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "b 3 h w"], device: torch.device) -> LatentPosterior:
        if self.vae is None:
            pixels = moved(pixels, device)
            return LatentPosterior(pixels, torch.zeros_like(pixels))
        memory = current()
        own = "" if memory is None else f"{self._fingerprint()}|{self.vae.dtype}|{device}"

        def posterior(part: Sequence[Tensor]) -> Moments:
            together = torch.cat(list(part))
            make = lambda: self._posterior(moved(together, device))  # noqa: E731
            return make() if memory is None else memory.get_or_make(key_of(own, together), device, make)

        size = (pixels.shape[-1], pixels.shape[-2])
        if size not in self._parts:
            too_large = f"The autoencoder cannot encode {size[0]}×{size[1]} pixels in memory. Use a smaller frame size."
            self._parts[size] = Parts(max(1, _PIXELS_AT_ONCE // (size[0] * size[1])), too_large)
        with self._upcast():
            parts = self._parts[size].run(pixels.split(1), posterior)
            mean, std = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
            shift, scale = self._normalisation(mean)
        return LatentPosterior((mean - shift) * scale, std * scale)

    def _fingerprint(self) -> str:
        """Of the autoencoder as it is now, computed again only after its weights were changed in place."""
        assert self.vae is not None
        changes = sum(writes_into(p) for p in self.vae.parameters())
        if self._known is None or self._known[0] != changes:
            self._known = changes, fingerprint(self.vae)
        return self._known[1]

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        if self.vae is None:
            return latents
        shift, scale = self._normalisation(latents.float())
        z = latents.float() / scale + shift
        if self.patched:
            z = pixel_shuffle(z, 2)
        z = z[:, :, None] if self.video else z
        one = Parts(1, "The autoencoder cannot decode this picture in memory.")
        vae: Any = self.vae
        with self._upcast():
            rows = one.run(z.split(1), lambda part: vae.decode(torch.cat(list(part)).to(vae.dtype)).sample)
            pixels = torch.cat(rows)
        return (pixels[:, :, 0] if self.video else pixels).float()

    @contextlib.contextmanager
    def _upcast(self) -> Iterator[None]:
        """Float32 for the while where the configuration asks for it, in so many words: some overflow in half precision.

        Afterwards its weights are the very ones of before, in their place in memory; other threads wait.
        """
        vae: Any = self.vae
        asked = vae.config.get("force_upcast") and "force_upcast" not in vae.config.get("_use_default_values", ())
        if vae.dtype == torch.float32 or not asked:
            yield
            return
        with alone(vae):
            weights = [(weight, weight.data) for weight in vae.parameters()]
            buffers = [(module, dict(module._buffers)) for module in vae.modules()]
            vae.to(torch.float32)
            try:
                yield
            finally:
                for weight, data in weights:
                    weight.data = data
                for module, of_module in buffers:
                    module._buffers.update(of_module)

    def _posterior(self, pixels: Tensor) -> Moments:
        vae: Any = self.vae
        # offloaded weights lie elsewhere until the module runs, on the device where the pixels are
        pixels = pixels.to(pixels.device if hasattr(vae, "_hf_hook") else vae.device, vae.dtype)
        encoded = vae.encode(pixels[:, :, None] if self.video else pixels)
        if hasattr(encoded, "latent_dist"):
            mean, std = encoded.latent_dist.mean.float(), encoded.latent_dist.std.float()
        else:  # deterministic autoencoders: DC calls it latent, the tiny and the quantised ones latents
            mean = (encoded.latent if hasattr(encoded, "latent") else encoded.latents).float()
            std = torch.zeros_like(mean)
        if self.video:
            mean, std = mean[:, :, 0], std[:, :, 0]
        if self.patched:
            mean, std = pixel_unshuffle(mean, 2), pixel_unshuffle(std, 2)
        return mean.contiguous(), std.contiguous()  # bits of what follows depend on strides, which no file keeps

    def _check_normalisation(self, like: Tensor) -> None:
        vae: Any = self.vae
        try:
            shift, scale = self._normalisation(like)
            lists = [vae.config.get(name) or [] for name in ("latents_mean", "latents_std")]
            if any(values and len(values) != like.shape[1] for values in lists):
                raise ValueError(lists)
            usable = torch.isfinite((like - shift) * scale).all() and bool((scale != 0).all())
        except (TypeError, ValueError, RuntimeError):  # no numbers, or of another count
            usable = False
        if not usable:
            raise ModelError(
                f"The configuration of this {type(vae).__name__} does not normalise its {like.shape[1]} channels: "
                "look at scaling_factor, shift_factor, latents_mean and latents_std."
            )

    def _normalisation(self, like: Tensor) -> tuple[Tensor, Tensor]:
        vae: Any = self.vae
        column: Callable[[Any], Tensor] = lambda v: torch.as_tensor(v).to(like).reshape(1, -1, 1, 1)  # noqa: E731
        if self.patched:
            return column(vae.bn.running_mean), column((vae.bn.running_var.float() + vae.config.batch_norm_eps).rsqrt())
        factor = vae.config.get("scaling_factor")
        scale = column(1.0 if factor is None else factor)
        shift = column(vae.config.get("shift_factor") or 0.0)
        mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
        if mean is not None and std is not None:
            return column(mean), scale / column(std)
        return shift, scale
