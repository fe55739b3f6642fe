r"""What a PCK number means.

The percentage of correct keypoints counts a prediction :math:`\hat p` of the target keypoint p as correct if

.. math:: \lVert \hat p - p \rVert_2 \le \alpha\, \max(w, h)

with (w, h) the target's object box (``"bbox"``) or the target picture (``"image"``). Distances are in
original target pixels, in the same unit along x and y: scoring in a squashed frame turns the circle into an
ellipse and has inflated published numbers by five points. How pairs are averaged changes a number by six to
seven points, the threshold by seven to eight; therefore a protocol is part of every result and is printed
with it, and every number is told by the pair and by the point.

SPair-71k: Min et al., arXiv:1908.10543. Averages: ``image`` is the mean over pairs of the pair's share of
correct points (the SPair authors' definition), ``point`` pools all points; ``category-image`` and
``category-point`` are means over the categories' scores (macro).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.evaluation.texts import PromptPolicy, names_category
from diffeat.features import Spec
from diffeat.tasks.correspondence.lattice import Lattice
from diffeat.tasks.correspondence.matching import Matching

Reference = Literal["bbox", "image", "pixels"]
_LENGTHS = {"bbox": "α·max(w, h) of the target box", "image": "α·max(w, h) of the target picture", "pixels": "α pixels"}
_UNITS = {"bbox": " of the target box", "image": " of the target picture", "pixels": " px"}
Average = Literal["image", "point", "category-image", "category-point"]
AVERAGES: dict[str, str] = {
    "image": "mean over image pairs",
    "point": "pooled over points",
    "category-image": "mean over categories of the mean over pairs",
    "category-point": "mean over categories of the pooled points",
}
#: Each average in two words, and the one that is told beside it.
PER: dict[Average, str] = {
    "image": "per image",
    "point": "per point",
    "category-image": "per image, mean of categories",
    "category-point": "per point, mean of categories",
}
_BESIDE: dict[Average, Average] = {
    "image": "point",
    "point": "image",
    "category-image": "category-point",
    "category-point": "category-image",
}


@dataclass(frozen=True)
class Protocol:
    """How predictions are made and scored.

    Attributes:
        alphas: Thresholds as shares of the reference length; the one that headlines is ``alphas[headline]``.
        reference: ``"bbox"`` or ``"image"``: the longer side of the target's; ``"pixels"``: alphas are pixels.
        average: ``"image"``, ``"point"``, ``"category-image"`` or ``"category-point"``.
        inclusive: ``<=`` if true, ``<`` if false.
        resize: Filter with which the published procedure resizes pictures; a result tells if another was
            used.
        load: Side to which the published procedure squashes pictures before it enlarges them to the model's size; a
            result tells if another was used.
        category_prompts: Whether the published procedure tells the model the true category of each picture, which is
            then done where no text is given (:meth:`prompts`).
        headline: Position in ``alphas`` of the number that is quoted.
    """

    name: str
    alphas: tuple[float, ...] = (0.01, 0.05, 0.1, 0.15)
    reference: Reference = "bbox"
    average: Average = "image"
    inclusive: bool = True
    matching: Matching = field(default_factory=Matching)
    resize: str | None = None
    load: int | None = None
    category_prompts: bool = False
    headline: int = 2
    source: str = ""

    def __post_init__(self) -> None:
        if self.reference not in _LENGTHS:
            raise InvalidValueError(
                f"No threshold reference {self.reference!r}. {did_you_mean(self.reference, _LENGTHS)}"
            )
        if self.average not in AVERAGES:
            raise InvalidValueError(f"No average {self.average!r}. {did_you_mean(self.average, AVERAGES)}")
        if not self.alphas or not all(a > 0 for a in self.alphas):
            raise InvalidValueError(f"Thresholds alpha must be positive numbers, got {self.alphas}.")
        if len(set(self.alphas)) < len(self.alphas):
            raise InvalidValueError(f"Thresholds alpha are {', '.join(map(str, self.alphas))}: one is given twice.")
        if not -len(self.alphas) <= self.headline < len(self.alphas):
            raise InvalidValueError(f"headline {self.headline} names none of the {len(self.alphas)} thresholds.")

    @property
    def alpha(self) -> float:
        """The threshold of the number that is quoted."""
        return self.alphas[self.headline]

    @property
    def averages(self) -> tuple[Average, Average]:
        """The one that is quoted, and the other of pair and point."""
        return self.average, _BESIDE[self.average]

    @property
    def sides(self) -> tuple[str, str]:
        """Both in words."""
        quoted, other = self.averages
        return PER[quoted], PER[other]

    def prompts(self, policy: PromptPolicy, spec: Spec) -> PromptPolicy:
        """The texts to give: those asked for, else the published ones if the recipe has a template for them."""
        takes = policy is None and self.category_prompts and spec.template != "{}"
        return "category" if takes else policy

    def notes(self, policy: PromptPolicy, spec: Spec) -> list[str]:
        """How the texts differ from the published ones."""
        if not self.category_prompts or names_category(policy) or not spec.text_for("text"):
            return []
        return ["the published procedure tells the model the true category of every picture (prompts='category')"]

    def measure(self, alpha: float | None = None) -> str:
        """``PCK@0.1 of the target box``; the quoted threshold if none is given."""
        return f"PCK@{self.alpha if alpha is None else alpha:g}{_UNITS[self.reference]}"

    def columns(self) -> list[str]:
        """A heading for every threshold, of cells as :meth:`PckResult.cell` writes them."""
        quoted, other = self.sides
        unit = " px" if self.reference == "pixels" else ""
        return [f"PCK@{alpha:g}{unit} {quoted} ({other})" for alpha in self.alphas]

    def replace(self, **changes: Any) -> Protocol:
        """A copy with other values; the name says that it is no longer the preset."""
        if changes and "name" not in changes:
            changes["name"] = self.name.removesuffix("*") + "*"
        if "alphas" in changes and "headline" not in changes:
            alphas = tuple(changes["alphas"])
            changes["headline"] = alphas.index(self.alpha) if self.alpha in alphas else len(alphas) - 1
        return replace(self, **changes)

    def __str__(self) -> str:
        sign = "≤" if self.inclusive else "<"
        return (
            f"{self.name}: distance {sign} {_LENGTHS[self.reference]}, {AVERAGES[self.average]}; "
            f"{self.matching}; scored in original pixels"
        )

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        lattice = self.matching.lattice
        window = self.matching.readout == "window"
        return {
            "name": self.name,
            "alphas": list(self.alphas),
            "alpha": self.alpha,
            "reference": self.reference,
            "average": self.average,
            "rule": "<=" if self.inclusive else "<",
            "prediction_grid": lattice.size if isinstance(lattice.size, str) else list(lattice.size),
            "half_pixel_convention": lattice.convention,
            "readout": self.matching.readout,
            **({"window": 2 * self.matching.radius + 1, "temperature": self.matching.temperature} if window else {}),
            "published_resize": self.resize,
            "published_load": self.load,
            "published_category_prompts": self.category_prompts,
            "source": self.source,
        }


_CELLS = Lattice("cells", convention="edge", snap=True)
_ZERO_SHOT = Matching(_CELLS, "window", radius=5, temperature=0.02)
_TRAINED = Matching(_CELLS, "window", radius=7, temperature=0.02)
_DIFT = Protocol("dift", resize="bicubic", category_prompts=True, source="DIFT, arXiv:2306.03881, per image")
_HYPERFEATURES = Protocol(
    "hyperfeatures",
    average="point",
    matching=Matching(Lattice((224, 224), convention="index", snap=True)),
    resize="bilinear",
    load=224,
    source="Diffusion Hyperfeatures, arXiv:2305.14334, box threshold",
)
_AT_64 = Matching(Lattice((64, 64), convention="index", snap=True))
_GEOAWARE = Protocol(
    "geoaware",
    inclusive=False,
    matching=_ZERO_SHOT,
    resize="lanczos",
    source="GeoAware-SC, arXiv:2311.17034, zero-shot, per image",
)
_GDF = Protocol(
    "gdf",
    reference="image",
    average="point",
    matching=Matching(Lattice((512, 512), convention="index", snap=True)),
    resize="bicubic",
    source="Generic Diffusion Feature, arXiv:2410.03558, picture threshold, per point",
)
_PF_PASCAL = "PF-Pascal, picture threshold, mean over pairs"
_GEOMETRY = "rigid scenes with known geometry, thresholds in pixels"

_PRESETS = (
    Protocol("spair", source="SPair-71k, arXiv:1908.10543: mean over pairs, target box"),
    Protocol("spair-point", average="point", source="as spair, pooled over points"),
    _DIFT,
    _DIFT.replace(name="dift-point", average="point", source="DIFT, arXiv:2306.03881, per point"),
    _HYPERFEATURES,
    _HYPERFEATURES.replace(
        name="hyperfeatures-image",
        reference="image",
        source="Diffusion Hyperfeatures, arXiv:2305.14334, picture threshold",
    ),
    _HYPERFEATURES.replace(
        name="hyperfeatures-64",
        matching=_AT_64,
        load=64,
        source="Diffusion Hyperfeatures, arXiv:2305.14334, at the size of its training, box threshold",
    ),
    _GEOAWARE,
    _GEOAWARE.replace(
        name="geoaware-point", average="point", source="GeoAware-SC, arXiv:2311.17034, zero-shot, per keypoint"
    ),
    _GEOAWARE.replace(
        name="geoaware-trained", matching=_TRAINED, source="GeoAware-SC, arXiv:2311.17034, trained, per image"
    ),
    _GDF,
    _GDF.replace(
        name="gdf-bbox",
        reference="bbox",
        source="Generic Diffusion Feature, arXiv:2410.03558, box threshold, per point",
    ),
    Protocol("ditf", average="point", source="DiTF, arXiv:2505.18584, per point"),
    _GEOAWARE.replace(name="ap10k", source="AP-10K pairs of GeoAware-SC, arXiv:2311.17034; the split says which"),
    _GEOAWARE.replace(
        name="ap10k-argmax", matching=Matching(), source="as ap10k, by the most similar pixel, as DIFT and DiTF match"
    ),
    Protocol("pf-pascal", alphas=(0.05, 0.1, 0.15), reference="image", headline=1, source=_PF_PASCAL),
    Protocol(
        "picture",
        alphas=(0.05, 0.1, 0.15),
        reference="image",
        headline=1,
        source="pairs of one's own without boxes: share of the target picture, mean over pairs",
    ),
    Protocol("geometry", alphas=(1, 2, 4, 8, 16), reference="pixels", average="point", source=_GEOMETRY),
)
PROTOCOLS: dict[str, Protocol] = {p.name: p for p in _PRESETS}


def get_protocol(name: str) -> Protocol:
    """A preset by name.

    Raises:
        UnknownNameError: No such preset; names the nearest.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError(f"No protocol {name!r}. {did_you_mean(name, PROTOCOLS)}".rstrip())
    return PROTOCOLS[name]
