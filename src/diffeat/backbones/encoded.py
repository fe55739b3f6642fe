"""Texts that a pipeline encoded: each once, bounded in number, and usable after the text encoders are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from diffeat.backbones.family import Family
from diffeat.backbones.fingerprint import fingerprint
from diffeat.backbones.recording import record_call, remembering
from diffeat.backbones.wrappers import uncompiled
from diffeat.errors import ModelError

#: Texts whose encoding is kept while the text encoders are there.
REMEMBERED_TEXTS = 256


class EncodedTexts:
    """The denoiser's arguments for texts, recorded from the pipeline's own code and remembered.

    Attributes:
        state: What is loaded into the text encoders; texts are remembered for each such state apart.
        dropped: Fingerprints of the text encoders that were dropped, by name.
    """

    def __init__(self, pipeline: Any, denoiser: nn.Module, family: Family) -> None:
        self.state = ""
        self.dropped: dict[str, str] = {}
        self._pipeline = pipeline
        self._denoiser = denoiser
        self._family = family
        self._changes_before_drop = 0
        self._texts: dict[tuple[str, int], dict[str, Any]] = {}
        self._rows: dict[tuple[tuple[str, int], str, tuple[int, int], str], Mapping[str, Any]] = {}

    def row(self, prompt: str, size: tuple[int, int], options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The conditions of one text: the denoiser's arguments but latent and timestep."""
        key = (self._key(), prompt, size, repr(sorted(options.items())))
        row = self._rows.get(key)
        if row is None:
            row, _ = self.record([prompt], size, options)
            for name in (self._family.latent_argument, self._family.timestep_argument, "return_dict"):
                row.pop(name, None)
            self._rows[key] = row
            self._forget_oldest()
        return row

    def record(
        self, prompts: list[str], size: tuple[int, int], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], float]:
        """All arguments of the denoiser's first call, and its timestep.

        Raises:
            ModelError: If the pipeline never calls its denoiser, or needs text encoders that were dropped.
        """
        arguments = self._family.call_arguments(self._pipeline, prompts, size, options)
        memory = self._texts.setdefault(self._key(), {})
        own = remembering(self._pipeline, memory, missing=lambda: self._need_encoders(prompts))
        with uncompiled():
            recorded = record_call(own, self._denoiser, arguments)
        if recorded is None:
            raise ModelError(
                f"{type(self._pipeline).__name__} ran without calling its {type(self._denoiser).__name__}; its "
                "conditions cannot be recorded."
            )
        return recorded

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
        changes = self._changes_before_drop
        for name, part in self._pipeline.components.items() if not self.dropped else ():
            if isinstance(part, nn.Module) and name.startswith("text_encoder"):
                changes += sum(1 + (0 if p.is_inference() else p._version) for p in part.parameters())
            elif name.startswith("tokenizer") and hasattr(part, "get_vocab"):
                changes += len(part)
        return self.state, changes

    def _need_encoders(self, prompts: list[str]) -> None:
        if self.dropped:
            raise ModelError(
                f"The prompt {prompts[0]!r} is not encoded yet and the text encoders were dropped. Call condition() "
                "with every prompt before drop_text_encoders(), or load the whole model."
            )

    def _forget_oldest(self) -> None:
        """Bound what a stream of ever new captions takes; nothing is forgotten that could not be encoded again."""
        if not self.dropped:
            _keep_newest(self._rows, REMEMBERED_TEXTS)
            for memory in list(self._texts.values()):
                _keep_newest(memory, REMEMBERED_TEXTS)


def _keep_newest(memory: dict[Any, Any], count: int) -> None:
    for key in list(memory)[:-count]:
        memory.pop(key, None)
