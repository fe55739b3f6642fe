"""Texts that a pipeline encoded: each once, bounded in number, and usable after the text encoders are gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from torch import nn

from diffeat.backbones.family import Family
from diffeat.backbones.fingerprint import changes_of_texts, fingerprint
from diffeat.backbones.memory import current, dense, keep_newest, key_of
from diffeat.backbones.recording import record_call, remembering
from diffeat.backbones.wrappers import uncompiled
from diffeat.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

#: Texts whose encoding is kept while the text encoders are there.
REMEMBERED_TEXTS = 256


class EncodedTexts:
    """The denoiser's arguments for texts, recorded from the pipeline's own code and remembered.

    Attributes:
        state: What is loaded into the text encoders; texts are remembered for each such state apart.
        dropped: Fingerprints of the text encoders that were dropped, by name.
    """

    def __init__(self, pipeline: DiffusionPipeline, denoiser: nn.Module, family: Family) -> None:
        self.state = ""
        self.dropped: dict[str, str] = {}
        self._pipeline = pipeline
        self._denoiser = denoiser
        self._family = family
        self._changes_before_drop = 0
        self._known: tuple[tuple[str, int], dict[str, str]] | None = None
        self._texts: dict[tuple[str, int], dict[str, Any]] = {}
        self._rows: dict[tuple[tuple[str, int], str, tuple[int, int], str], Mapping[str, Any]] = {}

    def rows(
        self, prompts: Sequence[str], size: tuple[int, int], options: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], ...]:
        """The conditions of each text: the denoiser's arguments but latent and timestep."""
        state, told = self._key(), repr(sorted(options.items()))
        rows: dict[str, Mapping[str, Any]] = {}
        for prompt in dict.fromkeys(prompts):
            key = (state, prompt, size, told)
            if key not in self._rows:
                row, _ = self.record([prompt], size, options)
                for name in (self._family.latent_argument, self._family.timestep_argument, "return_dict"):
                    row.pop(name, None)
                self._rows[key] = row
            rows[prompt] = self._rows[key]
            if not self.dropped:  # bounds what a stream of ever new captions takes; all could be encoded again
                for memory in [self._rows, *self._texts.values()]:
                    keep_newest(memory, REMEMBERED_TEXTS)
        return tuple(rows[prompt] for prompt in prompts)

    def record(
        self, prompts: list[str], size: tuple[int, int], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], float]:
        """All arguments of the denoiser's first call, and its timestep."""
        arguments = self._family.call_arguments(self._pipeline, prompts, size, options)
        memory = self._texts.setdefault(self._key(), {})
        own = remembering(self._pipeline, memory, lambda said, encode: self._encoded(prompts, said, encode))
        with uncompiled():
            recorded = record_call(own, self._denoiser, arguments)
        if recorded is None:
            raise ModelError(
                f"{type(self._pipeline).__name__} ran without calling its {type(self._denoiser).__name__}; its "
                "conditions cannot be recorded."
            )
        return recorded

    def _encoded(self, prompts: list[str], said: str, encode: Callable[[], Any]) -> Any:
        """What a text is encoded as: what is remembered, or else what the encoders make of it."""

        def make() -> Any:
            if self.dropped:
                raise ModelError(
                    f"The prompt {prompts[0]!r} is not encoded yet and the text encoders were dropped. Call "
                    "condition() with every prompt before drop_text_encoders(), or load the whole model."
                )
            return dense(encode())

        memory = current()
        if memory is None or self.state or " at 0x" in said:
            return make()
        parts = {**self._fingerprints(), "pipeline": type(self._pipeline).__name__, "said": said}
        device = next(self._denoiser.parameters()).device
        return memory.get_or_make(key_of(f"{version('diffusers')}|{device}", repr(sorted(parts.items()))), device, make)

    def _fingerprints(self) -> dict[str, str]:
        """Of the text encoders and tokenizers as they are; computed again only after they were changed in place."""
        key = self._key()
        if self._known is None or self._known[0] != key:
            parts = self._pipeline.components.items()
            texts = {n: part for n, part in parts if n.startswith(("text_encoder", "tokenizer")) and part is not None}
            dtypes = {f"{n}.dtype": str(getattr(part, "dtype", "")) for n, part in texts.items()}
            self._known = key, {**{n: fingerprint(part) for n, part in texts.items()}, **dtypes, **self.dropped}
        return self._known[1]

    def drop_encoders(self) -> None:
        """Free the text encoders."""
        if not self.dropped:
            _, self._changes_before_drop = self._key()
        for name, part in self._pipeline.components.items():
            if name.startswith("text_encoder") and part is not None:
                self.dropped[name] = fingerprint(part)
                setattr(self._pipeline, name, None)

    def _key(self) -> tuple[str, int]:
        """Other than before if the text encoders or tokenizers were changed in place."""
        if self.dropped:
            return self.state, self._changes_before_drop
        return self.state, changes_of_texts(self._pipeline.components)
