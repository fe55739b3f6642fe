"""A folder of pictures with captions, encoded once for the training of ControlNets and LoRAs.

Captions stand in ``captions.csv`` (columns ``image`` and ``prompt``) or, per picture, in a text file of its name.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffeat.errors import DatasetError, InvalidValueError, ModelError
from diffeat.geometry import find_images, open_image


@dataclass(frozen=True)
class Encoded:
    """Pictures as training needs them.

    Attributes:
        latents: Means of the scaled latents ``(n, c, h, w)``.
        spread: Standard deviations.
        texts: Text states ``(n, tokens, width)``.
        empty: Of the empty text ``(1, tokens, width)``.
        conditions: Bytes ``(n, H, W)`` if there is a condition.
    """

    latents: Tensor
    spread: Tensor
    texts: Tensor
    empty: Tensor
    conditions: Tensor | None

    def batch(self, size: int, drop: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Drawn latents, texts (the empty one in a share ``drop``), and conditions in [0, 1]."""
        at = torch.randint(len(self.latents), (size,), generator=generator)
        latents = self.latents[at] + self.spread[at] * torch.randn(self.latents[at].shape, generator=generator)
        without = torch.rand(size, generator=generator) < drop
        texts = torch.where(without[:, None, None], self.empty, self.texts[at])
        conditions = None if self.conditions is None else self.conditions[at][:, None].expand(-1, 3, -1, -1) / 255
        return latents, texts, conditions


@dataclass(frozen=True)
class Noised:
    """Noisy latents, timesteps, texts, what is to be predicted, and conditions if there are any."""

    latents: Tensor
    t: Tensor
    texts: Tensor
    target: Tensor
    conditions: Tensor | None


def load_unet_pipeline(model: str, device: str) -> Any:
    """A Stable-Diffusion-like pipeline in float32.

    Raises:
        ModelError: If it cannot be loaded, or has no UNet with text states.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from diffeat.zoo import names, path

    source = str(path(model)) if model in names() else model
    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(source, torch_dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ModelError(f"The model {model!r} cannot be loaded: {error}") from None
    unet = getattr(pipeline, "unet", None)
    if unet is None or getattr(unet.config, "addition_embed_type", None) is not None:
        raise ModelError(
            f"{type(pipeline).__name__} is not of the Stable Diffusion 1.x/2.x kind; training takes those."
        )
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.vae, pipeline.text_encoder, unet):
        part.to(device).eval().requires_grad_(False)
    return pipeline


@torch.no_grad()
def encode_folder(
    pipeline: Any, folder: Path, size: int, limit: int | None, condition: Callable[[np.ndarray], np.ndarray] | None
) -> Encoded:
    """Encode all pictures of a folder with their captions.

    Raises:
        DatasetError: If there are no pictures, or one has no caption.
    """
    paths = list(find_images([folder]).images)[:limit]
    if not paths:
        raise DatasetError(f"{folder} holds no pictures.")
    captions = _captions(folder, paths)
    latents, spread, texts, drawn = [], [], [], []
    for picture, caption in zip(paths, captions, strict=True):
        image = np.asarray(open_image(picture).resize((size, size)))
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        posterior = pipeline.vae.encode(pixels.to(pipeline.vae.device)).latent_dist
        latents.append(posterior.mean.cpu() * pipeline.vae.config.scaling_factor)
        spread.append(posterior.std.cpu() * pipeline.vae.config.scaling_factor)
        texts.append(_text(pipeline, caption))
        if condition is not None:
            found = np.asarray(condition(image), dtype=np.float32)
            if found.shape != (size, size):
                raise InvalidValueError(f"The condition of a {size}×{size} picture has shape {found.shape}.")
            drawn.append(torch.from_numpy((found * 255).round().astype(np.uint8)))
    return Encoded(
        torch.cat(latents), torch.cat(spread), torch.cat(texts), _text(pipeline, ""),
        torch.stack(drawn) if drawn else None,
    )  # fmt: skip


def noised(data: Encoded, scheduler: Any, size: int, drop: float, generator: torch.Generator, device: str) -> Noised:
    """A drawn batch under noise."""
    latents, texts, conditions = data.batch(size, drop, generator)
    noise = torch.randn(latents.shape, generator=generator)
    t = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
    noisy, target = scheduler.add_noise(latents, noise, t), target_of(scheduler, latents, noise, t)
    drawn = None if conditions is None else conditions.to(device)
    return Noised(noisy.to(device), t.to(device), texts.to(device), target.to(device), drawn)


def target_of(scheduler: Any, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the denoiser should predict."""
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "epsilon":
        return noise
    return scheduler.get_velocity(latents, noise, t) if kind == "v_prediction" else latents


def _text(pipeline: Any, caption: str) -> Tensor:
    states, _ = pipeline.encode_prompt(caption, pipeline.text_encoder.device, 1, False)
    return states.float().cpu()


def _captions(folder: Path, paths: list[Path]) -> list[str]:
    table: dict[str, str] = {}
    file = folder / "captions.csv"
    if file.is_file():
        with file.open(newline="", encoding="utf-8-sig") as handle:
            table = {row["image"]: row["prompt"] for row in csv.DictReader(handle)}
    found = []
    for path in paths:
        beside = path.with_suffix(".txt")
        if path.name in table:
            found.append(table[path.name])
        elif beside.is_file():
            found.append(beside.read_text(encoding="utf-8").strip())
        else:
            raise DatasetError(
                f"{path.name} has no caption: add it to captions.csv (image,prompt) or as {beside.name}."
            )
    return found
