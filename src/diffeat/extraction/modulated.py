"""Taps for recipes with ``refine``: they bring raw streams and modulation parameters, and make features of their means.

The denoiser runs up to the consumer of the modulated tensor and no further. What is averaged over draws is the raw
stream, in float32; see :mod:`diffeat.refinement.adaln` for the formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from diffeat.activations import MapRequest, Taps
from diffeat.activations.modulation import modulated_sites
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, did_you_mean
from diffeat.extraction.massive_channels import Place, detect
from diffeat.extraction.recipe import Recipe
from diffeat.refinement.adaln import check_channels, modulate


class ModulatedTaps:
    """Stands where :class:`diffeat.activations.Taps` stands, for a recipe with ``refine``.

    Args:
        recipe: With ``refine``.
        backbone: The model.
        names: The recipe's activations, each an ``adaln`` id or alias.

    Raises:
        InvalidValueError: An activation is no modulated input, or a channel does not exist.
    """

    def __init__(self, recipe: Recipe, backbone: Backbone, names: Sequence[str | MapRequest]) -> None:
        assert recipe.refine is not None
        self._recipe, self._backbone, self._refine = recipe, backbone, recipe.refine
        self._names = [str(n) for n in names]
        self._sites = dict(zip(self._names, modulated_sites(backbone, self._names), strict=True))
        wanted = [id for s in self._sites.values() for id in (s.raw, s.shift, s.scale) if id is not None]
        self._taps = Taps(backbone.denoiser, wanted, stop=True)
        self._detected: dict[Place, list[int]] | None = None
        self._given = self._check_given()

    def _check_given(self) -> dict[str, list[int]]:
        channels = self._refine.channels
        if isinstance(channels, str):
            return {}
        by_name = channels if isinstance(channels, dict) else dict.fromkeys(self._names, channels)
        for name in by_name:
            if name not in self._sites:
                raise InvalidValueError(
                    f"refine.channels speaks of {name!r}, which the recipe does not read. "
                    f"{did_you_mean(name, self._names)}"
                )
        return {n: check_channels(c, self._sites[n].norm.channels) for n, c in by_name.items()}

    def __enter__(self) -> ModulatedTaps:
        self._taps.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._taps.__exit__(*error)

    def run(self, **inputs: Any) -> dict[str, Tensor]:
        """One forward pass: raw streams ``(B, C, h, w)`` by name, and their parameters ``(B, C)``, in float32."""
        got = self._taps.run(**inputs)
        found: dict[str, Tensor] = {}
        for name, site in self._sites.items():
            found[name] = got[site.raw].float()
            found |= {_part(name, part): got[id] for part, id in site.parameters.items() if part != "gate"}
        return found

    def finish(self, means: dict[Place, Tensor]) -> dict[Place, Tensor]:
        """Features of the means of what :meth:`run` gave, in the precision of the model."""
        features: dict[Place, Tensor] = {}
        for (t, name), raw in means.items():
            if name in self._sites:
                feature = modulate(
                    raw,
                    self._sites[name].norm,
                    means.get((t, _part(name, "scale"))),
                    means.get((t, _part(name, "shift"))),
                    channels=self.channels(t, name),
                    discard=self._refine.discard,
                )
                features[t, name] = feature.to(self._backbone.dtype)
        return features

    def channels(self, timestep: float, name: str) -> list[int]:
        """The channels that are discarded from an activation at a timestep."""
        if self._refine.discard == "none":
            return []
        if self._refine.channels != "detected":
            return self._given.get(name, [])
        if self._detected is None:
            found = detect(self._recipe, self._backbone, self._names)
            self._detected = {place: d.channels for place, d in found.items()}
        return self._detected[timestep, name]

    def provenance(self) -> dict[str, Any]:
        """What was discarded, by activation and timestep."""
        if self._refine.discard == "none":
            return {}
        times = self._recipe.trajectory.timesteps
        return {"discarded": {f"{n}@{t:g}": self.channels(t, n) for n in self._names for t in times}}


def _part(name: str, part: str) -> str:
    return f"{name}#{part}"
