"""Techniques as text, for the command line.

``KIND[:MAIN][,name=value…]``, joined by `` + `` to combine:

* ``prompt:a photo of a horse`` (all of the rest is the text), ``captions:FILE``, ``captioner:module:function``
* ``controlnet:MODEL,condition=canny,scale=0.8``
* ``lora:FILE,scale=0.7``
* ``ip-adapter:MODEL,file=…,scale=0.6``
* ``guidance:7.5``, ``denoise-from:60,steps=10``
"""

from __future__ import annotations

from typing import Any

from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.techniques.base import Technique
from diffeat.techniques.combination import Combination
from diffeat.techniques.controlnet import ControlNet
from diffeat.techniques.denoise_from import DenoiseFrom
from diffeat.techniques.guidance import Guidance
from diffeat.techniques.ip_adapter import IPAdapter
from diffeat.techniques.lora import LoRA
from diffeat.techniques.prompt import Prompt

#: Class and main argument of each kind; of the first three all of the text is the argument.
_WHOLE: dict[str, tuple[type[Technique], str]] = {
    "prompt": (Prompt, "text"),
    "captions": (Prompt, "captions"),
    "captioner": (Prompt, "captioner"),
}
_KINDS: dict[str, tuple[type[Technique], str]] = {
    "controlnet": (ControlNet, "model"),
    "lora": (LoRA, "path"),
    "ip-adapter": (IPAdapter, "path"),
    "guidance": (Guidance, "scale"),
    "denoise-from": (DenoiseFrom, "start"),
}


def parse_combination(text: str) -> Combination:
    """A combination from its text.

    Raises:
        UnknownNameError: If there is no such kind or option.
        InvalidValueError: If a value is missing or outside its range.
    """
    return Combination(_technique(part.strip()) for part in text.split(" + "))


def _technique(text: str) -> Technique:
    kind, _, rest = text.partition(":")
    if kind in _WHOLE:
        cls, main = _WHOLE[kind]
        if not rest:
            raise InvalidValueError(f"{kind} needs a value: {kind}:… ")
        return cls(**{main: rest})
    if kind not in _KINDS:
        raise UnknownNameError(
            f"There is no technique {kind!r}. {did_you_mean(kind, [*_WHOLE, *_KINDS])} E.g. controlnet:MODEL,scale=0.8"
        )
    cls, main = _KINDS[kind]
    values: dict[str, Any] = {}
    for i, part in enumerate(rest.split(",") if rest else []):
        name, equals, value = part.partition("=")
        if i == 0 and not equals:
            values[main] = part
        elif not equals or name not in cls.model_fields or name == "kind":
            options = [f for f in cls.model_fields if f != "kind"]
            raise UnknownNameError(f"{kind} has no option {part!r}. {did_you_mean(name, options)} Write name=value.")
        else:
            values[name] = value
    return cls(**values)
