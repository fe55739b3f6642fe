"""A text that says what is in the picture: one for all, one per picture, or one made by a captioner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import field_serializer, field_validator, model_validator

from diffeat.errors import InvalidValueError
from diffeat.files import read_texts
from diffeat.techniques.base import Technique
from diffeat.techniques.named import function_name, load_function

if TYPE_CHECKING:
    from diffeat.techniques.scene import Desk, Scene


class Prompt(Technique, frozen=True):
    """Text for the denoiser, in place of the recipe's own.

    Give one of the four; with none the picture keeps the text it has (the null twin).

    Attributes:
        text: One fixed text.
        captions: A CSV file with columns ``image`` and ``prompt``, a JSON file ``{image: text}``, or such a mapping;
            images by file name, with or without folder and ending.
        captioner: A function from a PIL image to its text, or its ``"module:function"`` name (see
            :func:`~diffeat.techniques.named.code_allowed`).
        caption_model: An image-to-text model of transformers, by hub id or folder (see
            :class:`~diffeat.techniques.captioner.Captioner`).
        request: What ``caption_model`` is asked; the paper asks Kosmos-2 for "a detailed description of this image,
            including any subject matter, style of art if any, and the context".
    """

    words = {"prompt": "text", "captions": "captions", "captioner": "captioner", "caption-model": "caption_model"}
    whole = True
    usage = ("prompt:TEXT", "captions:FILE", "captioner:MODULE:FUNCTION", "caption-model:MODEL")

    kind: Literal["prompt"] = "prompt"
    text: str | None = None
    captions: str | Path | dict[str, str] | None = None
    captioner: str | Callable[..., str] | None = None
    caption_model: str | None = None
    request: str = ""

    @model_validator(mode="after")
    def _one(self) -> Prompt:
        given = [n for n in ("text", "captions", "captioner", "caption_model") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of text, captions, captioner and caption_model, not {' and '.join(given)}")
        if self.request and self.caption_model is None:
            raise ValueError("request belongs to caption_model")
        return self

    @field_validator("captioner")
    @classmethod
    def _function(cls, value: str | Callable[..., str] | None) -> Callable[..., str] | None:
        return value if value is None else load_function(value)

    @field_serializer("captioner")
    def _plain(self, value: str | Callable[..., str] | None) -> str | None:
        return value if value is None else function_name(value)

    @field_serializer("captions")
    def _path(self, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @property
    def per_image(self) -> bool:
        return (self.captions, self.captioner, self.caption_model) != (None, None, None)

    def files(self) -> Sequence[str]:
        return () if self.caption_model is None else (self.caption_model,)

    @property
    def label(self) -> str:
        if self.text is not None:
            return f"prompt {self.text!r}" if len(self.text) <= 40 else f"prompt {self.text[:37]!r}…"
        if self.caption_model is not None:
            return f"captions by {Path(self.caption_model).name}"
        return "captions" if self.per_image else "prompt (null)"

    def null(self) -> Prompt:
        return Prompt()

    def write(self, desk: Desk, scene: Scene) -> str | None:
        """
        Raises:
            InvalidValueError: The captions cannot be read, or name no such picture.
            ModelError: The model cannot be loaded, or describes no pictures.
        """
        model = self.caption_model
        if model is not None:
            from diffeat.techniques.captioner import Captioner

            captioner = desk.keep(self.key, lambda: Captioner(model, self.request))
            return desk.of_picture(scene.seen, self.key, lambda: captioner(scene.seen.image()))
        if callable(self.captioner):
            return str(self.captioner(scene.seen.image()))
        source = self.captions
        if source is None:
            return self.text
        name = Path(scene.seen.name)
        captions = source if isinstance(source, dict) else desk.keep(self.key, lambda: read_texts(source))
        for form in (scene.seen.name, name.name, name.stem):
            if form in captions:
                return captions[form]
        raise InvalidValueError(
            f"There is no caption for {scene.seen.name!r}; the captions name {len(captions)} pictures "
            f"({', '.join(list(captions)[:3]) or 'none'}…). Every picture needs one."
        )
