"""Names and reads what is inside a denoiser."""

from __future__ import annotations

from diffeat.activations.attention import MapRequest
from diffeat.activations.read import read
from diffeat.activations.taps import Taps

__all__ = ["MapRequest", "Taps", "read"]
