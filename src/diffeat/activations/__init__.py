"""Names and reads what is inside a denoiser.

* :class:`Catalogue` lists what there is, from the config alone if wanted.
* :func:`read` runs one forward pass and returns the wanted activations.
* :func:`tap` reads while a generation runs.
* :func:`modulated_sites` tells what modulated activations are made of.
* :class:`Taps` are the hooks underneath; :class:`MapRequest` reduces an attention map while it is computed.
"""

from __future__ import annotations

from diffeat.activations.attention import MapRequest
from diffeat.activations.catalogue import Activation, Catalogue
from diffeat.activations.generation import GenerationTaps, tap
from diffeat.activations.modulation import ModulatedSite, modulated_sites
from diffeat.activations.reader import read
from diffeat.activations.sites import KINDS, SITES
from diffeat.activations.taps import Taps

__all__ = [
    "KINDS",
    "SITES",
    "Activation",
    "Catalogue",
    "GenerationTaps",
    "MapRequest",
    "ModulatedSite",
    "Taps",
    "modulated_sites",
    "read",
    "tap",
]
