"""IP-Adapter: the picture itself as a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from diffeat.errors import ModelError
from diffeat.techniques.base import Call, Scale, Technique

if TYPE_CHECKING:
    from torch import Tensor

    from diffeat.techniques.scene import Desk, Scene


class IPAdapter(Technique, frozen=True):
    """An IP-Adapter that is shown the input picture, for UNet pipelines where diffusers offers it.

    Attributes:
        path: Hub id or folder, e.g. ``"h94/IP-Adapter"``.
        subfolder: Folder inside it, e.g. ``"models"``.
        file: Its weights, e.g. ``"ip-adapter_sd15.bin"``.
        scale: Factor on what the picture's tokens add, any finite number.
    """

    words = {"ip-adapter": "path"}
    usage = ("ip-adapter:MODEL,file=FILE,scale=0.6",)
    strength = "scale"
    changes_layers = True

    kind: Literal["ip-adapter"] = "ip-adapter"
    path: str = "h94/IP-Adapter"
    subfolder: str = "models"
    file: str = "ip-adapter_sd15.safetensors"
    scale: Scale = 0.6

    @property
    def label(self) -> str:
        return f"ip-adapter ×{self.scale:g}"

    @property
    def per_image(self) -> bool:
        return True

    def files(self) -> Sequence[str]:
        folder = Path(self.path) / self.subfolder
        return str(folder / self.file), str(folder / "image_encoder")

    @classmethod
    def change_layers(cls, desk: Desk, techniques: Sequence[Self]) -> bool:
        """
        Raises:
            ModelError: If the pipeline takes none, or it cannot be loaded or does not fit.
        """
        from diffeat.backbones.hub import near

        (adapter,) = techniques
        pipeline = desk.backbone.pipeline
        if not hasattr(pipeline, "load_ip_adapter") or not hasattr(pipeline, "unet"):
            raise ModelError(f"Diffusers offers no IP-Adapter for {type(pipeline).__name__}.")
        try:
            pipeline.load_ip_adapter(near(adapter.path), subfolder=adapter.subfolder, weight_name=adapter.file)
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
        return False

    def tell(self, desk: Desk, scenes: Sequence[Scene]) -> Tensor:
        import torch

        embed, device = desk.backbone.pipeline.prepare_ip_adapter_image_embeds, desk.backbone.device
        key = ("image prompt", *self.files())

        def of(scene: Scene) -> Tensor:
            return desk.of_picture(scene, key, lambda: embed([scene.image()], None, device, 1, False)[0])

        with torch.no_grad():  # as the stock pipeline computes it
            return torch.cat([of(scene.seen) for scene in scenes])

    def steer(self, desk: Desk, inputs: Call, told: Tensor) -> Call:
        added = {**(inputs.get("added_cond_kwargs") or {}), "image_embeds": [told]}
        return {**inputs, "added_cond_kwargs": added}

    def untold(self, told: Tensor) -> Tensor:
        return told.new_zeros(told.shape)
