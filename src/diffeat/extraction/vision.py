"""Patch features of a vision transformer from ``transformers`` (DINOv2, ViT, …), in the form that recipes give.

Such a model sees the clean picture and reads no text. It is usable wherever an extractor is: in stores, matching,
evaluation, and joined with a diffusion model's features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffeat.ambient import neutral
from diffeat.backbones.files import read_object, said
from diffeat.backbones.fingerprint import fingerprint
from diffeat.backbones.hub import near_part
from diffeat.backbones.placement import device_of, dtype_of
from diffeat.backbones.sharing import ready
from diffeat.errors import InvalidValueError, ModelError, NonFiniteError
from diffeat.extraction.kinds import Vision
from diffeat.features import Failed, FeatureMap, Group, Picture, Streams, model_images
from diffeat.features.feature_map import finite
from diffeat.geometry import Frame, FrameSpec

#: Pixels of one call.
_PIXELS = 8 * 518 * 518


class VisionExtractor(Streams[FeatureMap]):
    """Features of pictures by a vision transformer.

    Args:
        recipe: What to take.
        model: A loaded ``transformers`` model.
        mean: Per channel, of pixels in [0, 1], as the model was trained.
        std: Likewise.
    """

    def __init__(
        self,
        recipe: Vision,
        model: Any,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        config = model.config
        patch = getattr(config, "patch_size", None)
        if not isinstance(patch, int):
            raise ModelError(
                f"{type(model).__name__} has no patch grid (config.patch_size), so it gives no dense features here."
            )
        layers = int(config.num_hidden_layers)
        if not -layers - 1 <= recipe.layer <= layers:
            raise InvalidValueError(f"{recipe.name} has hidden states 0 to {layers}, got layer {recipe.layer}.")
        self.recipe = recipe
        self.model = model
        self.patch = patch
        self._skip = 1 + int(getattr(config, "num_register_tokens", 0))
        image_size = getattr(config, "image_size", 224)
        side = recipe.size or (image_size if isinstance(image_size, int) else image_size[0])
        self._spec = FrameSpec(mode=recipe.mode, size=side - side % patch)
        if recipe.size is not None and recipe.size % patch:
            near = max(patch, round(recipe.size / patch) * patch)
            raise InvalidValueError(
                f"The size must be a multiple of the patch size {patch}, got {recipe.size}. The nearest is {near}."
            )
        self._mean = torch.tensor(mean, dtype=torch.float32, device="cpu").view(3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device="cpu").view(3, 1, 1)

    @classmethod
    @neutral()
    def from_pretrained(
        cls,
        recipe: str | Path | Vision,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> VisionExtractor:
        """Load a model, e.g. ``facebook/dinov2-base``, or the one that a recipe names.

        Raises:
            ModelError: The model cannot be loaded; says why.
            InvalidValueError: No such device or precision.
        """
        from transformers import AutoModel

        where, precision = device_of(device or "cpu"), dtype_of(dtype) or torch.float32
        recipe = recipe if isinstance(recipe, Vision) else Vision(model=str(recipe))
        model = near_part(recipe.model)
        try:
            loaded = AutoModel.from_pretrained(model, dtype=precision, trust_remote_code=False)
        except Exception as error:  # anything a damaged or foreign folder provokes inside the loaders
            raise ModelError(
                f"The vision model {model!r} cannot be loaded ({said(error)}). Give a hub id such as "
                "'facebook/dinov2-base' or a local folder with config.json and model.safetensors."
            ) from error
        return cls(recipe, loaded.to(where), **_statistics(model))

    @property
    def fingerprint(self) -> str:
        """Tells the model, and how pictures are given to it, from others."""
        return fingerprint(self.model, self._mean, self._std)

    @property
    def precision(self) -> str:
        """The model's."""
        return str(self.model.dtype).removeprefix("torch.")

    def frame(self, picture: Picture) -> Frame:
        """Where a picture lies in the model's image."""
        return self._spec.frame(picture.size, multiple=self.patch)

    def group(self, picture: Picture) -> Group:
        """Pictures of one model size share calls."""
        frame = self.frame(picture)
        width, height = frame.model
        return Group(frame.model, max(1, _PIXELS // (width * height)), self._spec.mode == "keep", (frame,))

    def read(self, pictures: Sequence[Picture]) -> Iterator[FeatureMap | Failed]:
        """Features of pictures of one group: one map ``patches`` each."""
        frames = [self.frame(picture) for picture in pictures]
        pixels = model_images(pictures, frames, self.model.device)
        values = (((pixels + 1) / 2 - self._mean.to(pixels)) / self._std.to(pixels)).to(self.model.dtype)
        with ready(self.model), torch.no_grad():
            hidden = self.model(values, output_hidden_states=True).hidden_states[self.recipe.layer]
        for picture, frame, tokens in zip(pictures, frames, hidden, strict=True):
            tensor = self._grid(tokens, frame)
            if finite(tensor):
                provenance = {
                    "recipe": self.recipe.name,
                    "recipe_hash": self.recipe.hash,
                    "model": self.recipe.model,
                    "prompt": "",
                    "model_size": list(frame.model),
                    "dtype": self.precision,
                }
                yield FeatureMap({"patches": tensor}, frame, picture.name, picture.digest, provenance)
            else:
                dtype = self.model.dtype
                error = f"Features of {picture.name} hold NaN or infinity in {dtype}. Use float32."
                yield Failed(NonFiniteError(error))

    def _grid(self, tokens: Tensor, frame: Frame) -> Tensor:
        """Tokens (n, c) behind the class and register tokens, as a map (c, h, w)."""
        h, w = frame.model[1] // self.patch, frame.model[0] // self.patch
        if len(tokens) != self._skip + h * w:
            raise ModelError(
                f"{self.recipe.name} gave {len(tokens)} tokens for a grid of {h}×{w} patches; "
                f"{self._skip + h * w} were expected. Its token layout is not known here."
            )
        return tokens[self._skip :].T.reshape(-1, h, w)


def _statistics(model: str) -> dict[str, Sequence[float]]:
    """Pixel statistics from a model's ``preprocessor_config.json``, where there is one."""
    from transformers.utils.hub import cached_file

    name = "preprocessor_config.json"
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = Path(model, name) if Path(model).is_dir() else Path(cached_file(model, name, **quiet) or "")
    data = read_object(file) if file.is_file() else {}
    statistics = {k: data[f"image_{k}"] for k in ("mean", "std") if f"image_{k}" in data}
    for name, values in statistics.items():
        if not (isinstance(values, list) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)):
            raise ModelError(f"{file}: image_{name} must be three numbers, not {str(values)[:80]}.")
    return statistics
