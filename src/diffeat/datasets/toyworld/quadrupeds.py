"""Four-legged animals: one skeleton, six species by proportions, several poses.

Lengths are in units of the trunk's length. Ranges are (low, high) of a uniform draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffeat.datasets.toyworld.exact import cos, norm, normal, power, product, sin
from diffeat.datasets.toyworld.figure import SIDES, Pen, turn

Range = tuple[float, float]
Draw = Callable[[Range], float]


@dataclass(frozen=True, slots=True)
class Species:
    """Proportions of a four-legged animal."""

    girth: Range
    leg: Range
    leg_radius: Range
    neck: Range
    neck_angle: Range
    head: Range
    snout: Range
    snout_radius: Range
    ear: Range
    ears: tuple[str, ...]
    tail: Range
    tail_radius: Range
    tail_angle: Range
    extras: tuple[str, ...] = ()


SPECIES = {
    "horse": Species(
        (0.22, 0.27), (0.75, 0.95), (0.045, 0.06), (0.48, 0.62), (40, 62), (0.14, 0.17), (0.3, 0.38),
        (0.075, 0.09), (0.12, 0.16), ("point",), (0.55, 0.75), (0.05, 0.08), (-80, -50), ("mane", "hoof"),
    ),
    "dog": Species(
        (0.19, 0.27), (0.4, 0.68), (0.045, 0.07), (0.2, 0.34), (30, 60), (0.15, 0.2), (0.16, 0.28),
        (0.065, 0.09), (0.13, 0.24), ("flop", "point"), (0.3, 0.6), (0.025, 0.06), (-30, 70), ("nose",),
    ),
    "cat": Species(
        (0.17, 0.23), (0.34, 0.46), (0.04, 0.055), (0.13, 0.2), (25, 50), (0.17, 0.21), (0.06, 0.1),
        (0.07, 0.085), (0.13, 0.18), ("point",), (0.6, 0.9), (0.03, 0.045), (-40, 80), ("nose",),
    ),
    "cow": Species(
        (0.3, 0.36), (0.5, 0.62), (0.055, 0.075), (0.2, 0.3), (5, 30), (0.16, 0.19), (0.28, 0.34),
        (0.11, 0.13), (0.16, 0.22), ("side",), (0.55, 0.7), (0.02, 0.03), (-85, -65), ("horns", "hoof", "udder"),
    ),
    "sheep": Species(
        (0.3, 0.37), (0.36, 0.48), (0.035, 0.05), (0.15, 0.22), (20, 45), (0.12, 0.15), (0.18, 0.24),
        (0.075, 0.09), (0.14, 0.18), ("side",), (0.15, 0.25), (0.05, 0.07), (-70, -40), ("wool",),
    ),
    "elephant": Species(
        (0.36, 0.42), (0.55, 0.68), (0.1, 0.13), (0.14, 0.2), (5, 30), (0.25, 0.3), (0.1, 0.12),
        (0.13, 0.15), (0.34, 0.46), ("fan",), (0.4, 0.5), (0.02, 0.03), (-85, -65), ("trunk", "hoof"),
    ),
}  # fmt: skip


def quadruped(name: str, pen: Pen, rng: np.random.Generator) -> None:
    """An animal of a species in a drawn pose (standing, walking, grazing, sitting)."""
    species = SPECIES[name]

    def draw(bounds: Range) -> float:
        return float(rng.uniform(*bounds))

    pose = str(rng.choice(["standing", "walking", "grazing", "sitting"], p=[0.35, 0.35, 0.15, 0.15]))
    pen.figure.pose = pose
    girth, leg, thick = draw(species.girth), draw(species.leg), draw(species.leg_radius)
    pitch = float(rng.uniform(28, 45)) if pose == "sitting" else normal(rng, 0, 3)
    trunk = pen.at((0, leg + girth * 0.6, 0), turn(pitch=pitch))
    width = girth * float(rng.uniform(0.75, 0.95))
    trunk.ellipsoid("torso", (0.24, 0.02, 0), (0.36, girth * 1.02, width))
    trunk.ellipsoid("torso", (-0.02, -0.02, 0), (0.46, girth * float(rng.uniform(0.85, 1.05)), width))
    trunk.ellipsoid("torso", (-0.3, 0.02, 0), (0.27, girth * 1.0, width * 0.95))
    if "udder" in species.extras:
        trunk.ellipsoid("torso", (-0.22, -girth * 0.95, 0), (0.12, 0.09, 0.1), material="skin")
    if "wool" in species.extras:
        for _ in range(14):
            spot = normal(rng, 0, 1, 3)
            spot *= np.array([0.42, girth * 0.85, width * 0.85]) / norm(spot)
            trunk.ellipsoid("torso", spot, float(rng.uniform(0.1, 0.17)))
    trunk.keypoint("withers", (0.36, girth * 0.85, 0), "torso", "neck", "hair")
    trunk.keypoint("tail_base", (-0.53, girth * 0.35, 0), "torso", "tail")
    _legs(pen, trunk, species, pose, girth, width, leg, thick, rng)
    _tail(trunk, species, girth, draw, rng)
    neck_angle = draw(species.neck_angle)
    if pose == "grazing":
        neck_angle = float(rng.uniform(-60, -35))
    neck = draw(species.neck) * (1.25 if pose == "grazing" else 1)
    neck_turn = normal(rng, 0, 18)
    base = trunk.at((0.42, girth * 0.45, 0), product(turn(pitch=-pitch * 0.8), turn(yaw=neck_turn, pitch=neck_angle)))
    head_size = draw(species.head)
    base.limb("neck", (-0.08, 0, 0), (neck, 0, 0), girth * 0.62, head_size * 0.66, "main")
    if "mane" in species.extras:
        for k in range(5):
            x = neck * (0.1 + 0.22 * k)
            base.ellipsoid("hair", (x, girth * (0.55 - 0.08 * k), 0), (neck * 0.17, 0.1, 0.035), material="hair")
    level = turn(yaw=normal(rng, 0, 22), pitch=-neck_angle * 0.85 + normal(rng, -12, 12))
    head(base.at((neck + head_size * 0.35, 0.02, 0), level), species, head_size, draw, rng)


def _legs(
    pen: Pen, trunk: Pen, species: Species, pose: str, girth: float, width: float, leg: float, thick: float,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    stride = float(rng.uniform(15, 38)) if pose == "walking" else float(rng.uniform(0, 7))
    phase = float(rng.uniform(0, 2 * np.pi))
    for k, (end, side) in enumerate([("front", 1), ("front", -1), ("back", 1), ("back", -1)]):
        x = 0.36 if end == "front" else -0.38
        hip = trunk.point((x, -girth * 0.25, side * width * 0.55))
        swing = np.deg2rad(stride * sin(phase + np.pi * ((k + k // 2) % 2) + 0.4 * (k // 2)) + normal(rng, 0, 2))
        bend = np.deg2rad(12 + 0.8 * max(0.0, np.rad2deg(swing)))
        name = f"{end}_{'right' if side > 0 else 'left'}_foot"
        if pose == "sitting" and end == "back":
            knee = hip + np.array([0.3, 0.05, side * 0.06])
            foot = np.array([knee[0] - 0.02 + 0.1, thick * 0.9, knee[2]])
            heel = foot - np.array([0.22, 0, 0])
            pen.limb("leg", hip, knee, thick * 2.2, thick * 1.6)
            pen.limb("leg", knee, heel, thick * 1.4, thick)
            pen.limb("foot", heel, foot, thick, thick * 1.1, _foot_material(species))
        else:
            reach = max(hip[1] - thick, 0.15)
            upper = reach * 0.52 / float(power(cos(swing), 0.3))
            direction = -1 if end == "front" else 1
            knee = hip + upper * np.array([sin(swing) + (0.12 if end == "back" else 0), -cos(swing), 0])
            lower = swing - bend * (1 if end == "front" else 0.6) if pose == "walking" else swing * 0.6
            foot = knee + np.array([sin(lower) * 0.5 * reach + 0.05 * direction * -1, -(knee[1] - thick), 0])
            pen.limb("leg", hip, knee, thick * 2.0, thick * 1.15)
            pen.limb("leg", knee, foot, thick * 1.1, thick * 0.9)
            pen.ellipsoid(
                "foot", foot + [thick * 0.4, 0, 0], (thick * 1.5, thick * 1.0, thick * 1.1),
                material=_foot_material(species),
            )  # fmt: skip
        pen.keypoint(name, foot + [thick * 0.3, 0, 0], "foot", "leg")


def _foot_material(species: Species) -> str:
    return "dark" if "hoof" in species.extras else "second"


def _tail(trunk: Pen, species: Species, girth: float, draw: Draw, rng: np.random.Generator) -> None:
    length, radius, angle = draw(species.tail), draw(species.tail_radius), draw(species.tail_angle)
    point, points = np.array([-0.5, girth * 0.35, 0.0]), []
    curl = float(rng.uniform(-18, 30))
    sway = normal(rng, 0, 0.25)
    heading = np.deg2rad(angle)
    for _ in range(5):
        points.append(point.copy())
        point = point + length / 4 * np.array([-cos(heading), sin(heading), sway])
        heading += np.deg2rad(curl)
    brush = 1.3 if "mane" in species.extras else 0.8
    material = "hair" if "mane" in species.extras else "main"
    trunk.chain("tail", points, [radius, radius, radius * brush, radius * brush, radius * 0.7], material, knob=True)
    trunk.keypoint("tail_tip", points[-1], "tail")


def head(pen: Pen, species: Species, size: float, draw: Draw, rng: np.random.Generator) -> None:
    """A head at the pen's origin, looking along x."""
    snout, snout_radius = draw(species.snout), draw(species.snout_radius) * size / (sum(species.head) / 2)
    wide = size * float(rng.uniform(0.85, 1.0))
    pen.ellipsoid("head", (0, 0, 0), (size * 1.05, size, wide))
    drop = -size * float(rng.uniform(0.2, 0.4))
    tip = size * 0.55 + snout
    if "trunk" in species.extras:
        sway, curl = normal(rng, 0, 0.1), float(rng.uniform(-6, 22))
        point, heading, points = np.array([size * 0.7, -size * 0.2, 0]), np.deg2rad(-65), []
        for _ in range(6):
            points.append(point.copy())
            point = point + 0.14 * np.array([cos(heading), sin(heading), sway])
            heading += np.deg2rad(curl)
        pen.chain("trunk_nose", points, [0.13, 0.105, 0.09, 0.078, 0.068, 0.055])
        pen.keypoint("nose", points[-1], "trunk_nose")
        for side in (1, -1):
            pen.chain(
                "horn",
                [(size * 0.6, -size * 0.5, side * 0.14), (size * 1.1, -size * 0.95, side * 0.17)],
                [0.035, 0.015],
                "bone",
            )
    else:
        pen.limb("head", (size * 0.3, drop * 0.4, 0), (tip, drop, 0), size * 0.62, snout_radius)
        muzzle = "second" if rng.random() < 0.6 else "main"
        pen.ellipsoid("mouth", (tip, drop - snout_radius * 0.2, 0), snout_radius * 1.02, material=muzzle)
        nose = (tip + snout_radius * 0.8, drop + snout_radius * 0.35, 0)
        radii = snout_radius * np.array([0.4, 0.36, 0.5])
        pen.ellipsoid("nose", nose, radii, material="nose" if "nose" in species.extras else "dark")
        pen.keypoint("nose", nose, "nose", "mouth", "head")
        pen.ellipsoid(
            "mouth", (tip + snout_radius * 0.55, drop - snout_radius * 0.55, 0),
            snout_radius * np.array([0.5, 0.1, 0.62]), material="dark",
        )  # fmt: skip
    angle = {"horse": 62, "cow": 60, "sheep": 58}.get(_name_of(species), 42)
    for side, word in SIDES:
        _eye(pen, size, wide, side, word, angle, rng)
        _ear(pen, size, wide, side, word, draw(species.ear), str(rng.choice(species.ears)), rng)
    if "horns" in species.extras and rng.random() < 0.8:
        long = float(rng.uniform(0.12, 0.24))
        for side in (1, -1):
            root = np.array([-size * 0.15, size * 0.8, side * wide * 0.55])
            bow = root + [0, long * 0.35, side * long * 0.8]
            pen.chain("horn", [root, bow, bow + [long * 0.3, long * 0.7, 0]], [0.04, 0.032, 0.012], "bone", True)
    if "wool" in species.extras:
        pen.ellipsoid("hair", (-size * 0.35, size * 0.55, 0), (size * 0.7, size * 0.6, wide * 0.8))


def _name_of(species: Species) -> str:
    return next(name for name, one in SPECIES.items() if one is species)


def _eye(pen: Pen, size: float, wide: float, side: int, word: str, angle: float, rng: np.random.Generator) -> None:
    a = np.deg2rad(angle)
    direction = np.array([cos(a) * 0.95, 0.34, side * sin(a) * 0.9])
    direction /= norm(direction)
    place = direction * np.array([size * 1.0, size * 0.95, wide * 0.97])
    eye = size * (0.24 if angle < 50 else 0.18)
    pen.ellipsoid("eye", place, eye, material="iris")
    pen.ellipsoid("eye", place + direction * eye * 0.55, eye * 0.62, material="dark")
    glint = place + direction * eye * 1.0 + np.array([0, eye * 0.3, 0])
    pen.ellipsoid("eye", glint, eye * 0.18, material="glint")
    pen.keypoint(f"{word}_eye", place + direction * eye * 0.9, "eye")


def _ear(
    pen: Pen, size: float, wide: float, side: int, word: str, length: float, kind: str, rng: np.random.Generator
) -> None:
    root = np.array([-size * 0.2, size * 0.72, side * wide * 0.58])
    if kind == "fan":
        root = np.array([-size * 0.35, size * 0.15, side * wide * 0.9])
        lean = turn(yaw=-side * float(rng.uniform(35, 65)), pitch=0)
        sheet = pen.at(root, lean)
        sheet.ellipsoid("ear", (-length * 0.45, -length * 0.1, 0), (length * 0.55, length * 0.75, 0.03))
        sheet.keypoint(f"{word}_ear", (-length * 0.95, 0, 0), "ear")
        return
    ear = {"point": (0.1, 1.0, 0.3), "flop": (-0.1, -0.75, 0.75), "side": (-0.25, 0.15, 1.0)}[kind]
    direction = np.array([ear[0], ear[1], side * ear[2]]) + normal(rng, 0, 0.08, 3)
    direction /= norm(direction)
    tip = root + direction * length
    if kind == "point":
        pen.frustum("ear", root - direction * size * 0.25, tip, length * 0.5, length * 0.05, "main", flat=0.45)
        inner = root + np.array([length * 0.13, 0, 0])
        pen.frustum("ear", inner, tip - direction * length * 0.15, length * 0.33, length * 0.04, "skin", flat=0.4)
    else:
        middle = (root + tip) / 2
        axes = np.stack([direction, np.array([1.0, 0, 0]), np.cross(direction, [1.0, 0, 0])], 1)
        material = "second" if rng.random() < 0.4 else "main"
        pen.ellipsoid("ear", middle, (length * 0.55, length * 0.3, length * 0.12), axes, material)
    pen.keypoint(f"{word}_ear", tip - direction * length * 0.12, "ear")
