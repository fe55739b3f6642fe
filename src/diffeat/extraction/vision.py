"""Patch features of a vision transformer from ``transformers`` (DINOv2, ViT, …), in the form that recipes give.

Such a model sees the clean picture and reads no text. It is usable wherever an extractor is: in stores, matching,
evaluation, and in fusion with a diffusion model's features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffeat.backbones.fingerprint import fingerprint
from diffeat.errors import DiffeatError, InvalidValueError, ModelError, NonFiniteError
from diffeat.extraction.extractor import OnError
from diffeat.features import FeatureMap
from diffeat.features.picture import ImageLike, Picture, load_picture
from diffeat.geometry import Frame, FrameSpec


@dataclass(frozen=True)
class VisionRecipe:
    """What to take from which model.

    Attributes:
        model: Hub id or local folder of a ``transformers`` vision model with a patch grid.
        layer: Hidden state to take: -1 is the last layer's, before the final norm; 0 the embeddings.
        size: Side of the square model image in pixels, a multiple of the patch size; ``None`` takes the model's own.
        mode: ``"squash"`` or ``"pad"``.
    """

    model: str
    layer: int = -1
    size: int | None = None
    mode: str = "squash"
    prompt: str = ""

    @property
    def name(self) -> str:
        """Short name for tables."""
        return Path(self.model).name

    def content(self) -> dict[str, Any]:
        """The fields that change the numbers."""
        return {"vision": self.model, "layer": self.layer, "size": self.size, "mode": self.mode}

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of :meth:`content`."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def text_for(self, prompt: str | None) -> str:
        """Always empty: the model reads no text."""
        return ""


class VisionExtractor:
    """Features of pictures by a vision transformer.

    Args:
        recipe: What to take.
        model: A loaded ``transformers`` model.
        mean: Per channel, of pixels in [0, 1], as the model was trained.
        std: Likewise.
    """

    def __init__(
        self,
        recipe: VisionRecipe,
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
        self.model = model.eval()
        self.patch = patch
        self._skip = 1 + int(getattr(config, "num_register_tokens", 0))
        image_size = getattr(config, "image_size", 224)
        side = recipe.size or (image_size if isinstance(image_size, int) else image_size[0])
        self._spec = FrameSpec(mode=recipe.mode, size=side - side % patch)  # type: ignore[arg-type]
        if recipe.size is not None and recipe.size % patch:
            near = max(patch, round(recipe.size / patch) * patch)
            raise InvalidValueError(
                f"The size must be a multiple of the patch size {patch}, got {recipe.size}. The nearest is {near}."
            )
        self._mean = torch.tensor(mean).view(3, 1, 1)
        self._std = torch.tensor(std).view(3, 1, 1)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        layer: int = -1,
        size: int | None = None,
        mode: str = "squash",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> VisionExtractor:
        """Load a model, e.g. ``facebook/dinov2-base``.

        Raises:
            ModelError: The model cannot be loaded; says why.
        """
        from transformers import AutoModel

        try:
            loaded = AutoModel.from_pretrained(model, dtype=dtype or torch.float32)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The vision model {str(model)!r} cannot be loaded: {error}. Give a hub id such as "
                "'facebook/dinov2-base' or a local folder with config.json and model.safetensors."
            ) from error
        stats = _statistics(Path(model)) if Path(model).is_dir() else _statistics_of(str(model))
        extractor = cls(VisionRecipe(str(model), layer, size, mode), loaded, **stats)
        if device is not None:
            extractor.model.to(device)
        return extractor

    @property
    def fingerprint(self) -> str:
        """Tells the weights from others."""
        return fingerprint(self.model)

    def extract(
        self, images: ImageLike | Sequence[ImageLike], prompts: str | Sequence[str | None] | None = None
    ) -> list[FeatureMap]:
        """Features of pictures, in their order; texts are ignored."""
        several = list(images) if isinstance(images, (list, tuple)) else [images]
        return list(self.stream(several, prompts))

    def stream(
        self,
        images: Iterable[ImageLike],
        prompts: str | Sequence[str | None] | None = None,
        *,
        on_error: OnError | None = None,
    ) -> Iterator[FeatureMap]:
        """One picture at a time.

        Args:
            on_error: What to do with a picture that fails; raises by default.
        """
        for image in images:
            try:
                picture = image if isinstance(image, Picture) else load_picture(image, "")
                yield self._extract(picture)
            except DiffeatError as error:
                if on_error is None:
                    raise
                on_error(image.name if isinstance(image, Picture) else str(image), error)

    @torch.no_grad()
    def _extract(self, picture: Picture) -> FeatureMap:
        frame = self._spec.frame(picture.image.size, multiple=self.patch)
        device, dtype = self.model.device, self.model.dtype
        pixels = ((frame.pixels(picture.image) + 1) / 2 - self._mean) / self._std
        hidden = self.model(pixels[None].to(device, dtype), output_hidden_states=True).hidden_states[self.recipe.layer]
        tensor = self._grid(hidden[0], frame)
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(f"Features of {picture.name} hold NaN or infinity in {dtype}. Use float32.")
        return FeatureMap(
            activations={"patches": tensor},
            frame=frame,
            image=picture.name,
            digest=picture.digest,
            provenance={
                "recipe": self.recipe.name,
                "recipe_hash": self.recipe.hash,
                "model": self.recipe.model,
                "prompt": "",
                "model_size": list(frame.model),
                "dtype": str(dtype).removeprefix("torch."),
            },
        )

    def _grid(self, tokens: Tensor, frame: Frame) -> Tensor:
        """Tokens (n, c) behind the class and register tokens, as a map (c, h, w)."""
        h, w = frame.model[1] // self.patch, frame.model[0] // self.patch
        if len(tokens) != self._skip + h * w:
            raise ModelError(
                f"{self.recipe.name} gave {len(tokens)} tokens for a grid of {h}×{w} patches; "
                f"{self._skip + h * w} were expected. Its token layout is not known here."
            )
        return tokens[self._skip :].T.reshape(-1, h, w)


def _statistics(folder: Path) -> dict[str, Sequence[float]]:
    """Pixel statistics from a local ``preprocessor_config.json``, where there is one."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return {}
    data = json.loads(file.read_text(encoding="utf-8"))
    return {k: data[f"image_{k}"] for k in ("mean", "std") if f"image_{k}" in data}


def _statistics_of(model: str) -> dict[str, Sequence[float]]:
    from transformers.utils.hub import cached_file

    found = cached_file(
        model,
        "preprocessor_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return _statistics(Path(found).parent) if found else {}
