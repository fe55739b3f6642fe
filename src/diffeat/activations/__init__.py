"""Names and reads what is inside a denoiser.

* :class:`Catalogue` lists what there is, from the config alone if wanted.
* :func:`read` runs one forward pass and returns the wanted activations.
* :func:`tap` reads while a generation runs.
* :func:`modulated_sites` tells what modulated activations are made of.
* :class:`AttentionTaps` hand on what attentions receive, :func:`read_concepts` lets concepts run beside the text.
* :class:`Taps` are the hooks underneath; :class:`MapRequest` reduces an attention map while it is computed.
"""

from __future__ import annotations

from diffeat.activations.attended import Attended, AttentionTaps
from diffeat.activations.attention import MapRequest
from diffeat.activations.catalogue import Activation, Catalogue
from diffeat.activations.concepts import CONCEPTS, ConceptRows, read_concepts
from diffeat.activations.generation import GenerationTaps, tap
from diffeat.activations.modulation import ModulatedSite, modulated_sites
from diffeat.activations.sites import KINDS, SITES
from diffeat.activations.taps import Taps, read

__all__ = [
    "CONCEPTS",
    "KINDS",
    "SITES",
    "Activation",
    "Attended",
    "AttentionTaps",
    "Catalogue",
    "ConceptRows",
    "GenerationTaps",
    "MapRequest",
    "ModulatedSite",
    "Taps",
    "modulated_sites",
    "read",
    "read_concepts",
    "tap",
]
