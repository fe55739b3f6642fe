"""Classifier-free guidance: the control that should not help."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffeat.techniques.base import Technique


class Guidance(Technique):
    """Predictions are pushed away from those of another text: p = p(negative) + scale (p(text) - p(negative)).

    Guidance acts on predictions: on x0 estimates, on Img2Img and on the steps of :class:`DenoiseFrom`. A single pass
    that only reads features runs the text's own branch and does not change.

    Attributes:
        scale: 0 to 30; 1 is none.
        negative: The other text.
    """

    kind: Literal["guidance"] = "guidance"
    scale: float = Field(7.5, ge=0, le=30)
    negative: str = ""

    @property
    def label(self) -> str:
        return f"guidance ×{self.scale:g}"

    def null(self) -> Guidance:
        return self.at(1.0)

    def at(self, strength: float) -> Guidance:
        return Guidance(scale=strength, negative=self.negative)
