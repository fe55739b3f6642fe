"""IP-Adapter: the picture itself as a prompt."""

from __future__ import annotations

from typing import Any, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from diffeat.errors import ModelError
from diffeat.techniques.base import Technique


class IPAdapter(Technique):
    """An IP-Adapter that is shown the input picture, for UNet pipelines where diffusers offers it.

    Attributes:
        path: Hub id or folder, e.g. ``"h94/IP-Adapter"``.
        subfolder: Folder inside it, e.g. ``"models"``.
        file: Its weights, e.g. ``"ip-adapter_sd15.bin"``.
        scale: 0 to 2.
    """

    kind: Literal["ip-adapter"] = "ip-adapter"
    path: str = "h94/IP-Adapter"
    subfolder: str = "models"
    file: str = "ip-adapter_sd15.safetensors"
    scale: float = Field(0.6, ge=0, le=2)

    @property
    def label(self) -> str:
        return f"ip-adapter ×{self.scale:g}"

    def null(self) -> IPAdapter:
        return self.at(0.0)

    def at(self, strength: float) -> IPAdapter:
        return self.model_copy(update={"scale": IPAdapter(scale=strength).scale})


def apply_ip_adapter(pipeline: Any, adapter: IPAdapter) -> None:
    """Put an IP-Adapter into the pipeline.

    Raises:
        ModelError: If the pipeline takes none, or it cannot be loaded or does not fit.
    """
    if not hasattr(pipeline, "load_ip_adapter") or not hasattr(pipeline, "unet"):
        raise ModelError(f"Diffusers offers no IP-Adapter for {type(pipeline).__name__}.")
    try:
        pipeline.load_ip_adapter(adapter.path, subfolder=adapter.subfolder, weight_name=adapter.file)
    except Exception as error:  # diffusers raises whatever it runs into
        raise ModelError(
            f"The IP-Adapter {adapter.path!r} cannot be applied ({type(error).__name__}: {error})."
        ) from error
    if getattr(pipeline, "image_encoder", None) is None:
        raise ModelError(f"{adapter.path!r} has no image encoder; load the pipeline with one.")
    if getattr(pipeline, "feature_extractor", None) is None:
        from transformers import CLIPImageProcessor

        side = pipeline.image_encoder.config.image_size
        pipeline.feature_extractor = CLIPImageProcessor(size=side, crop_size=side)
    pipeline.set_ip_adapter_scale(adapter.scale)


@torch.no_grad()
def image_prompt(pipeline: Any, pixels: Tensor) -> Tensor:
    """What the adapter is told about a picture ``(3, h, w)`` in [-1, 1], as the stock pipeline computes it."""
    bytes_ = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    image = Image.fromarray(bytes_.permute(1, 2, 0).cpu().numpy())
    device = next(pipeline.unet.parameters()).device
    return pipeline.prepare_ip_adapter_image_embeds([image], None, device, 1, False)[0]
