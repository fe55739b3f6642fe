"""The toy world: endless pictures with exact labels.

A picture is a figure posed, painted, lit and framed, before a backdrop, among strangers, taken by a bad camera. All of
it follows from ``(seed, index)``, bit for bit. Coordinates are pixel indices: the centre of the top-left pixel is
(0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.toyworld.backdrop import GROUNDS, PLACES, WALLS, backdrop
from diffeat.datasets.toyworld.captions import caption
from diffeat.datasets.toyworld.classes import CLASSES, FURRY, PORTRAITS, build
from diffeat.datasets.toyworld.exact import mean, normal
from diffeat.datasets.toyworld.figure import PARTS, Figure, Solid
from diffeat.datasets.toyworld.lens import blur, develop
from diffeat.datasets.toyworld.materials import Light, Look, Material, any_colour, light, look
from diffeat.datasets.toyworld.raster import Camera, Hits, cast
from diffeat.datasets.toyworld.scene import YAW, aim, extent, shadow, strangers
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean

Array = NDArray[np.floating]

OVERSAMPLE = 2
#: share of the picture that the longer side of a whole figure fills
SCALES = {"small": (0.38, 0.5), "medium": (0.5, 0.85), "large": (0.85, 0.96)}


@dataclass(frozen=True, slots=True)
class ToySample:
    """One picture and all that is known about it.

    Attributes:
        image: ``(H, W, 3)`` uint8.
        names: keypoint names, ``K`` of them.
        points: ``(K, 2)`` float64 pixel-index coordinates (x, y); may lie outside the picture.
        visible: ``(K,)`` bool: inside the picture and not behind the figure itself or an occluder.
        parts: ``(H, W)`` uint8, values index :data:`PARTS`; 0 is background and occluders.
        label: position of the class in :data:`CLASSES`.
        box: (left, top, right, bottom) of the visible figure in pixel-index coordinates.
        attributes: colour, pattern, pose, view, size, light, place, framing.
        truncated: whether the figure goes beyond the picture.
        occluded: whether an occluder hides a part of it.
    """

    image: NDArray[np.uint8] = field(repr=False)
    names: tuple[str, ...]
    points: NDArray[np.float64] = field(repr=False)
    visible: NDArray[np.bool_] = field(repr=False)
    parts: NDArray[np.uint8] = field(repr=False)
    label: int
    name: str
    box: tuple[float, float, float, float]
    caption: str
    attributes: dict[str, str]
    truncated: bool
    occluded: bool

    @property
    def keypoints(self) -> dict[str, tuple[float, float, bool]]:
        """``name -> (x, y, visible)``."""
        rows = zip(self.names, self.points, self.visible, strict=True)
        return {name: (float(p[0]), float(p[1]), bool(v)) for name, p, v in rows}


@dataclass(frozen=True, slots=True)
class ToySurface:
    """What the rays through the centres of a picture's pixels meet: the figure, and whatever stands around it.

    Attributes:
        depth: ``(H, W)`` float32, along the camera's axis; infinite where there is only the backdrop.
        normals: ``(3, H, W)`` float32 of length one, x right, y down, z ahead, so that z < 0 faces the camera; 0 where
            there is only the backdrop.
    """

    depth: NDArray[np.float32] = field(repr=False)
    normals: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToyPair:
    """Two pictures of one class, for matching the keypoints that are visible in both."""

    source: ToySample
    target: ToySample
    names: tuple[str, ...]

    def matches(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Source and target points ``(n, 2)`` of the shared keypoints, in the order of :attr:`names`."""
        one, two = self.source.keypoints, self.target.keypoints
        return (
            np.array([one[n][:2] for n in self.names]).reshape(-1, 2),
            np.array([two[n][:2] for n in self.names]).reshape(-1, 2),
        )


class Toyworld:
    """Endless samples, by index.

    Args:
        seed: Which world; different seeds share nothing.
        size: Side of the pictures in pixels, at least 32.
        classes: Which of :data:`CLASSES` occur (default: all).

    Raises:
        UnknownNameError: a class that does not exist.
        InvalidValueError: a size below 32, no class at all.
    """

    def __init__(self, seed: int = 0, size: int = 128, classes: Sequence[str] | None = None) -> None:
        self.seed, self.size = int(seed), int(size)
        self.classes = tuple(CLASSES if classes is None else classes)
        for name in self.classes:
            if name not in CLASSES:
                raise UnknownNameError(f"No toy-world class {name!r}. {did_you_mean(name, CLASSES)}")
        if self.size < 32:
            raise InvalidValueError(f"A toy-world picture has a side of at least 32 pixels, got {size}.")
        if not self.classes:
            raise InvalidValueError(f"The toy world needs a class; choose from {', '.join(CLASSES)}.")

    def __getitem__(self, index: int) -> ToySample:
        if index < 0:
            raise IndexError("a toy-world index counts from 0")
        return self.sample(index)

    def sample(self, index: int, **fixed: str) -> ToySample:
        """The picture at an index.

        Args:
            index: 0, 1, 2 … without end.
            **fixed: Attributes not to be drawn: ``name``, ``view`` (left, right, front, back), ``place``, ``light``
                (sunny, soft, dark), ``framing`` (whole, close), ``calm`` (yes: no clutter and no occluders; no), and
                ``size`` (small, medium, large; of figures framed as a whole).
        """
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, 0, index)))
        return self._draw(rng, fixed)

    def surface(self, index: int, **fixed: str) -> ToySurface:
        """Exact depth and normals of the picture that :meth:`sample` draws of the same arguments."""
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, 0, index)))
        stage = self._stage(rng, fixed)
        hits = cast(stage.figure.solids + stage.others, stage.camera, self.size, 1)
        normals = np.zeros((3, self.size, self.size), np.float32)
        normals[:, hits.index >= 0] = hits.normal.T
        return ToySurface(hits.depth, normals)

    def traits(self, index: int) -> dict[str, str]:
        """What is decided about a picture before it is drawn: name, view, place, light, framing, calm. Costs little."""
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, 0, index)))
        return _traits(self.classes, {}, rng)

    def pair(self, index: int, name: str | None = None) -> ToyPair:
        """Two pictures of one class with at least three common visible keypoints."""
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, 1, index)))
        name = str(rng.choice(self.classes)) if name is None else name
        while True:
            source, target = (self._draw(child, {"name": name}) for child in rng.spawn(2))
            one, two = source.keypoints, target.keypoints
            names = tuple(n for n in source.names if n in two and one[n][2] and two[n][2])
            if len(names) >= 3:
                return ToyPair(source, target, names)

    def _draw(self, rng: np.random.Generator, fixed: dict[str, str]) -> ToySample:
        return _take(self._stage(rng, fixed), self.size, rng)

    def _stage(self, rng: np.random.Generator, fixed: dict[str, str]) -> _Stage:
        traits = _traits(self.classes, fixed, rng)
        name, calm = traits["name"], traits.pop("calm") == "yes"
        figure = build(name, rng)
        traits["pose"] = figure.pose
        painted = look(name in FURRY, {s.material for s in figure.solids}, rng)
        traits["colour"], traits["pattern"] = painted.colour, painted.pattern
        scale = _scale(traits, rng)
        camera = aim(figure, name, traits["view"], traits["framing"], scale, self.size, rng)
        sun = light(rng, traits["light"])
        others, front = ([], 0) if calm else _company(camera, self.size, rng)
        return _Stage(figure, others, front, camera, painted, sun, traits, calm)


@dataclass(frozen=True, slots=True)
class _Stage:
    """All that stands before the camera, and the light; ``front`` of the others are occluders."""

    figure: Figure
    others: list[Solid]
    front: int
    camera: Camera
    painted: Look
    sun: Light
    traits: dict[str, str]
    calm: bool


def _traits(classes: Sequence[str], fixed: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    name = str(rng.choice(classes))
    name = fixed.get("name", name)
    drawn = {
        "name": name,
        "view": str(rng.choice(list(YAW), p=[0.36, 0.36, 0.18, 0.1])),
        "place": str(rng.choice(PLACES)),
        "light": str(rng.choice(["sunny", "soft", "dark"], p=[0.45, 0.47, 0.08])),
        "framing": "close" if rng.random() < (0.24 if name in PORTRAITS else 0.08) else "whole",
        "calm": "yes" if rng.random() < 0.4 else "no",
    }
    if drawn["framing"] == "close" and drawn["view"] == "back":
        drawn["view"] = "front"
    choices = {
        "name": CLASSES, "view": tuple(YAW), "place": PLACES, "light": ("sunny", "soft", "dark"),
        "framing": ("whole", "close"), "calm": ("yes", "no"), "size": tuple(SCALES),
    }  # fmt: skip
    for key, value in fixed.items():
        if key not in choices:
            raise UnknownNameError(f"No attribute {key!r} to fix. {did_you_mean(key, choices)}")
        if value not in choices[key]:
            raise UnknownNameError(f"No {key} {value!r}. {did_you_mean(value, choices[key])}")
        drawn[key] = value
    return drawn


def _scale(traits: dict[str, str], rng: np.random.Generator) -> float:
    if traits["framing"] == "close":
        traits["size"] = "medium"
        return float(rng.uniform(0.5, 0.95) if traits["name"] in PORTRAITS else rng.uniform(1.1, 1.5))
    scale = float(rng.uniform(*SCALES.get(traits.get("size", ""), (0.38, 0.96))))
    traits["size"] = "small" if scale < 0.5 else "large" if scale > 0.85 else "medium"
    return scale


def _company(camera: Camera, size: int, rng: np.random.Generator) -> tuple[list[Solid], int]:
    """Clutter behind (always beyond the figure) and, at times, occluders in front; how many are in front."""
    depth = float(camera.shift[2])
    whole = (0.0, 0.0, float(size), float(size))
    behind = strangers(
        camera, size, int(rng.integers(0, 5)), (depth * 1.75, depth * 2.4), whole, (0.06, 0.4), "behind", rng
    )
    count = int(rng.integers(1, 3)) if rng.random() < 0.25 else 0
    front = strangers(camera, size, count, (depth * 0.42, depth * 0.5), whole, (0.03, 0.13), "front", rng)
    return behind + front, count


def _take(stage: _Stage, size: int, rng: np.random.Generator) -> ToySample:
    figure, others, camera, sun, traits = stage.figure, stage.others, stage.camera, stage.sun, stage.traits
    solids = figure.solids + others
    hits = cast(solids, camera, size, OVERSAMPLE)
    materials = dict(stage.painted.materials)
    for other in others:
        tone, second = any_colour(rng), any_colour(rng)
        pattern = str(rng.choice(["plain", "mottled", "striped", "patched"]))
        materials[other.material] = Material(
            tone, second, pattern, float(rng.uniform(0.3, 1.5)), float(rng.uniform(-2, 2)), 0.5,
            float(rng.uniform(0.1, 0.8)), "pink", float(rng.uniform(0, 0.5)), (0.0, 0.0),
        )  # fmt: skip
    colour = _surface(solids, hits, materials, sun)
    cover = (hits.index >= 0).astype(np.float32)
    place = _place(figure, camera, traits, sun, size, rng)
    place = blur(place, float(rng.uniform(0, 2.4)) if rng.random() < 0.5 else 0.0)
    flat = np.zeros((*hits.index.shape, 3), np.float32)
    flat[hits.index >= 0] = colour
    alpha = _shrink(cover[..., None])
    picture = _shrink(flat) + (1 - alpha) * place
    image = develop(picture, rng, 0.45 if stage.calm else 1.0)

    part_of = np.array([s.part for s in solids] + [0], np.uint8)
    fine = part_of[hits.index]
    quads = np.stack([fine[i::OVERSAMPLE, j::OVERSAMPLE] for i in range(OVERSAMPLE) for j in range(OVERSAMPLE)])
    parts = np.sort(quads, axis=0)[1]
    names = tuple(figure.keypoints)
    spots = camera.project(np.stack([p for p, _ in figure.keypoints.values()]))
    visible = _visible(figure, spots, hits, parts, size)
    return ToySample(
        image, names, spots[:, :2], visible, parts, CLASSES.index(traits["name"]), traits["name"], _box(parts),
        caption(traits, rng), traits, _truncated(figure, camera, size),
        _occluded(hits, len(solids), stage.front, parts),
    )  # fmt: skip


def _surface(solids: list[Solid], hits: Hits, materials: dict[str, Material], sun: Light) -> Array:
    albedo = np.empty((len(hits.solid), 3), np.float32)
    gloss = np.empty(len(hits.solid), np.float32)
    named = [s.material for s in solids]
    order = {name: k for k, name in enumerate(dict.fromkeys(named))}
    which = np.array([order[name] for name in named])[hits.solid]
    for name, k in order.items():
        rows = np.nonzero(which == k)[0]
        if len(rows):
            albedo[rows] = materials[name].albedo(hits.local[rows])
            gloss[rows] = materials[name].gloss
    return sun.shade(np.clip(albedo, 0, 1.2), hits.normal, gloss)


def _shrink(fine: Array) -> Array:
    n = OVERSAMPLE
    total = np.zeros_like(fine[::n, ::n])
    for i in range(n):
        for j in range(n):
            total += fine[i::n, j::n]
    return total / np.float32(n * n)


def _place(
    figure: Figure, camera: Camera, traits: dict[str, str], sun: Light, size: int, rng: np.random.Generator
) -> Array:
    lows = camera.project(np.stack([s.centre * [1, 0, 1] for s in figure.solids]))
    feet = float(np.clip(mean(lows[:, 1]), 0.35 * size, 1.1 * size))
    aloft = traits["pose"] in ("flying", "swimming")
    horizon = float(rng.uniform(0.1, 1.3) * size) if aloft else float(rng.uniform(-0.1, 0.97) * feet)
    place = backdrop(traits["place"], size, horizon, rng).picture
    level = {"sunny": 1.0, "soft": 0.92, "dark": 0.42}[traits["light"]]
    place = place * np.float32(level * rng.uniform(0.75, 1.1))
    if not aloft and (traits["place"] in GROUNDS or (traits["place"] in WALLS and rng.random() < 0.3)):
        deep = np.float32(rng.uniform(0.3, 0.75) if traits["light"] == "sunny" else rng.uniform(0.15, 0.5))
        lean = (normal(rng, 0, 0.35), normal(rng, -0.1, 0.3))
        soft = float(rng.uniform(0.8, 2.0) if traits["light"] == "sunny" else rng.uniform(2.5, 5))
        place = place * (1 - deep * shadow(figure, camera, size, soft * size / 128, lean))[..., None]
    return place


def _visible(figure: Figure, spots: NDArray, hits: Hits, parts: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    seen = np.zeros(len(spots), bool)
    for k, (_, allowed) in enumerate(figure.keypoints.values()):
        x, y, depth = spots[k]
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        if not (0 <= column < size and 0 <= row < size) or PARTS[parts[row, column]] not in allowed:
            continue
        window = hits.depth[row * OVERSAMPLE : (row + 1) * OVERSAMPLE, column * OVERSAMPLE : (column + 1) * OVERSAMPLE]
        seen[k] = np.isfinite(window.min()) and window.min() > depth - 0.13
    return seen


def _box(parts: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(parts)
    if len(rows) == 0:
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))


def _truncated(figure: Figure, camera: Camera, size: int) -> bool:
    bounds = np.array(extent(figure.solids, camera.rotation, camera.shift)) * camera.focal
    bounds += np.array([*camera.centre, *camera.centre])
    return bool(bounds.min() < -1 or bounds.max() > size)


def _occluded(hits: Hits, count: int, front: int, parts: NDArray[np.uint8]) -> bool:
    """Whether an occluder's picture touches the figure's."""
    if front == 0:
        return False
    near = np.pad((hits.index >= count - front)[::OVERSAMPLE, ::OVERSAMPLE], 2)
    for _ in range(2):  # grown by a pixel to all four sides
        near = near | np.roll(near, 1, 0) | np.roll(near, -1, 0) | np.roll(near, 1, 1) | np.roll(near, -1, 1)
    return bool((near[2:-2, 2:-2] & (parts > 0)).any())
