"""Figures: bodies put together from solids, with named parts and named keypoints.

World axes: ``x`` is where the figure faces, ``y`` is up, ``z`` is its own right-hand side. A :class:`Pen` draws solids
in a local frame (an origin and a rotation), so that a head is written once and turned as the pose wants.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffeat.datasets.toyworld.exact import apply, cos, norm, product, sin

Vector = NDArray[np.float64]

#: The part vocabulary shared by all classes; the position is the value in a part mask (0 is background).
PARTS = (
    "background", "head", "ear", "eye", "nose", "mouth", "hair", "neck", "torso", "arm", "hand", "leg", "foot",
    "tail", "horn", "wing", "fin", "antenna", "wheel", "body", "window", "door", "light", "roof", "wall",
    "chimney", "seat", "backrest", "frame", "handlebar", "engine", "trunk", "foliage", "flower", "neckpiece",
    "cap", "handle", "rim", "sail", "mast", "hull", "trunk_nose", "beak",
)  # fmt: skip
PART_ID = {name: number for number, name in enumerate(PARTS)}

ELLIPSOID, BOX, FRUSTUM = 0, 1, 2
SIDES = ((1, "right"), (-1, "left"))


@dataclass(frozen=True, slots=True)
class Solid:
    """A unit solid under an affine map: the sphere, the cube [-1, 1]³, or a frustum along local ``y``.

    ``axes`` holds the three half-axes as columns; ``taper`` is the frustum's radius at its far end (1 at the near one).
    """

    kind: int
    centre: Vector
    axes: Vector
    taper: float
    part: int
    material: str


@dataclass(slots=True)
class Figure:
    """A posed body: solids, and keypoints ``name -> (position, parts that may show it)``."""

    solids: list[Solid] = field(default_factory=list)
    keypoints: dict[str, tuple[Vector, tuple[str, ...]]] = field(default_factory=dict)
    pose: str = "standing"

    def pen(self) -> Pen:
        return Pen(self, np.zeros(3), np.eye(3))


def turn(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Vector:
    """Rotation by degrees: ``pitch`` lifts the x axis up, ``yaw`` turns it to the left, ``roll`` leans to the right."""
    (ca, sa), (cb, sb), (cc, sc) = ((cos(a), sin(a)) for a in (x * (np.pi / 180) for x in (yaw, pitch, roll)))
    return np.array(
        [
            [ca * cb, sa * sc - ca * sb * cc, ca * sb * sc + sa * cc],
            [sb, cb * cc, -cb * sc],
            [-sa * cb, sa * sb * cc + ca * sc, ca * cc - sa * sb * sc],
        ]
    )


def slope(run: float, rise: float) -> Vector:
    """Rotation that lifts the x axis to the direction ``(run, rise)``."""
    long = float(np.sqrt(run * run + rise * rise))
    return np.array([[run / long, -rise / long, 0], [rise / long, run / long, 0], [0, 0, 1]])


def _basis_along(direction: Vector) -> Vector:
    """An orthonormal basis whose second column points along ``direction``."""
    y = direction / max(float(norm(direction)), 1e-9)
    helper = np.array([0.0, 0.0, 1.0]) if abs(y[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    x = np.cross(y, helper)
    x /= norm(x)
    return np.stack([x, y, np.cross(x, y)], axis=1)


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws into a figure in a local frame."""

    figure: Figure
    origin: Vector
    rotation: Vector

    def at(self, origin: ArrayLike, rotation: Vector | None = None) -> Pen:
        """A pen whose frame lies at ``origin`` of this one, turned by ``rotation``."""
        inner = np.eye(3) if rotation is None else rotation
        return Pen(self.figure, self.point(origin), product(self.rotation, inner))

    def point(self, local: ArrayLike) -> Vector:
        return self.origin + apply(self.rotation, np.asarray(local, float))

    def _add(self, kind: int, centre: Vector, axes: Vector, taper: float, part: str, material: str) -> None:
        solid = Solid(kind, self.point(centre), product(self.rotation, axes), taper, PART_ID[part], material)
        self.figure.solids.append(solid)

    def ellipsoid(
        self, part: str, centre: ArrayLike, radii: ArrayLike, rotation: Vector | None = None, material: str = "main"
    ) -> None:
        axes = np.diag(np.broadcast_to(np.asarray(radii, float), (3,)))
        axes = axes if rotation is None else product(rotation, axes)
        self._add(ELLIPSOID, np.asarray(centre, float), axes, 1.0, part, material)

    def box(
        self, part: str, centre: ArrayLike, half: ArrayLike, rotation: Vector | None = None, material: str = "main"
    ) -> None:
        axes = np.diag(np.asarray(half, float))
        axes = axes if rotation is None else product(rotation, axes)
        self._add(BOX, np.asarray(centre, float), axes, 1.0, part, material)

    def frustum(
        self, part: str, a: ArrayLike, b: ArrayLike, ra: float, rb: float, material: str = "main", flat: float = 1.0
    ) -> None:
        """A cone frustum from ``a`` (radius ``ra``) to ``b`` (radius ``rb``); ``flat`` squeezes it sideways."""
        a, b = np.asarray(a, float), np.asarray(b, float)
        if ra < rb:
            a, b, ra, rb = b, a, rb, ra
        axes = _basis_along(b - a) * np.array([ra, norm(b - a) / 2, ra * flat])
        self._add(FRUSTUM, (a + b) / 2, axes, rb / ra, part, material)

    def limb(
        self, part: str, a: ArrayLike, b: ArrayLike, ra: float, rb: float, material: str = "main", knob: bool = True
    ) -> None:
        """A frustum with a round end at ``b`` (and at ``a`` when ``knob``)."""
        self.frustum(part, a, b, ra, rb, material)
        self.ellipsoid(part, b, rb, material=material)
        if knob:
            self.ellipsoid(part, a, ra, material=material)

    def chain(
        self, part: str, points: list[ArrayLike], radii: list[float], material: str = "main", knob: bool = False
    ) -> None:
        """Limbs through a list of points."""
        for k in range(len(points) - 1):
            self.limb(part, points[k], points[k + 1], radii[k], radii[k + 1], material, knob and k == 0)

    def keypoint(self, name: str, local: ArrayLike, *parts: str) -> None:
        self.figure.keypoints[name] = (self.point(local), parts)
