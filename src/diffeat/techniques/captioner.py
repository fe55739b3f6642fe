"""Captions by an image-to-text model of transformers: BLIP, LLaVA …; Kosmos-2 in "Suppress Content Shift"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffeat.errors import ModelError

if TYPE_CHECKING:
    from PIL import Image

#: The published length of a caption.
_TOKENS = 128


class Captioner:
    """Describes pictures by a model that transformers loads for image and text to text.

    Args:
        request: What the model is asked, for those that take a text; empty for plain captions.
    """

    def __init__(self, model: str, request: str = "") -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from diffeat.backbones.files import said
        from diffeat.backbones.folder import check_folder
        from diffeat.backbones.hub import near

        self._name, self._request, model = model, request, near(model)
        try:
            if Path(model).is_dir():
                check_folder(Path(model))
            self._processor: Any = AutoProcessor.from_pretrained(model, trust_remote_code=False)
            self._model: Any = AutoModelForImageTextToText.from_pretrained(model, trust_remote_code=False).eval()
        except ModelError:
            raise
        except Exception as error:  # transformers and the hub raise whatever they run into
            raise ModelError(
                f"{model!r} cannot be loaded as a captioner ({said(error)}). Give a model of transformers that makes "
                "text of pictures, e.g. Salesforce/blip-image-captioning-base."
            ) from None

    def __call__(self, image: Image.Image) -> str:
        """The caption of a picture; the same for the same picture."""
        import torch

        words = {"text": self._request} if self._request else {}
        try:
            with torch.no_grad():
                inputs = self._processor(images=image, return_tensors="pt", **words)
                tokens = self._model.generate(**inputs, max_new_tokens=_TOKENS, do_sample=False)
            text = self._processor.batch_decode(tokens, skip_special_tokens=True)[0]
            if hasattr(self._processor, "post_process_generation"):  # Kosmos-2 marks what its words point at
                text = self._processor.post_process_generation(text)[0]
        except Exception as error:
            raise ModelError(f"{self._name!r} cannot caption a picture ({type(error).__name__}: {error}).") from error
        return text.replace(self._request, "", 1).strip()
