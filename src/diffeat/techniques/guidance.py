"""Classifier-free guidance: the control that should not help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from diffeat.techniques.base import Scale, Technique

if TYPE_CHECKING:
    from torch import Tensor

    from diffeat.backbones import Conditioning
    from diffeat.techniques.scene import Desk


class Guidance(Technique, frozen=True):
    """Predictions are pushed away from those of another text: p = p(negative) + scale (p(text) - p(negative)).

    Guidance acts on predictions: on x0 estimates, on Img2Img and on the steps of :class:`DenoiseFrom`. A single pass
    that only reads features runs the text's own branch and does not change, so recipes without steps refuse it.

    Attributes:
        scale: Any finite number; 1 is none.
    """

    words = {"guidance": "scale"}
    usage = ("guidance:7.5",)

    kind: Literal["guidance"] = "guidance"
    scale: Scale = 7.5
    negative: str = ""

    @property
    def label(self) -> str:
        return f"guidance ×{self.scale:g}"

    def null(self) -> Guidance:
        return Guidance(scale=1, negative=self.negative)

    @property
    def guides(self) -> bool:
        return self.scale != 1

    def against(self, desk: Desk, conditioning: Conditioning, **options: object) -> Conditioning:
        from diffeat.trajectories import unconditional_rows

        return unconditional_rows(desk.backbone, self.negative, conditioning, **options)

    def guide(self, other: Tensor, own: Tensor) -> Tensor:
        return other + self.scale * (own - other)
