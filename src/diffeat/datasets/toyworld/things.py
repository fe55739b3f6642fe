"""Chair, house, tree, flower, bottle and cup."""

from __future__ import annotations

import numpy as np

from diffeat.datasets.toyworld.exact import cos, norm, normal, product, sin
from diffeat.datasets.toyworld.figure import SIDES, Pen, slope, turn


def chair(pen: Pen, rng: np.random.Generator) -> None:
    """A chair with straight legs and a solid or slatted back; its front is +x."""
    deep, wide = float(rng.uniform(0.24, 0.3)), float(rng.uniform(0.24, 0.3))
    seat, back = float(rng.uniform(0.45, 0.6)), float(rng.uniform(0.45, 0.8))
    thick, leg = float(rng.uniform(0.025, 0.07)), float(rng.uniform(0.02, 0.04))
    pen.box("seat", (0, seat, 0), (deep, thick, wide), material="second" if rng.random() < 0.5 else "main")
    splay = float(rng.uniform(0, 0.06))
    for end, x in (("front", deep * 0.9), ("back", -deep * 0.9)):
        for s, word in SIDES:
            foot = np.array([x * (1 + splay), 0, s * wide * 0.9 * (1 + splay)])
            pen.limb("leg", (x, seat, s * wide * 0.9), foot, leg, leg * 0.8)
            pen.keypoint(f"{end}_{word}_foot", foot + [0, leg, 0], "leg")
    lean = turn(pitch=float(rng.uniform(2, 14)))
    rest = pen.at((-deep * 0.92, seat, 0), lean)
    if rng.random() < 0.5:
        material = "second" if rng.random() < 0.5 else "main"
        rest.box("backrest", (0, thick + back * 0.5, 0), (0.025, back * 0.5, wide), material=material)
    else:
        for s, _ in SIDES:
            rest.limb("backrest", (0, 0, s * wide * 0.92), (0, back, s * wide * 0.92), leg, leg)
        rest.box("backrest", (0, back * 0.93, 0), (0.025, back * 0.1, wide))
        for k in range(int(rng.integers(1, 5))):
            rest.box("backrest", (0, back * 0.5, wide * (-0.6 + 0.4 * k)), (0.015, back * 0.5, 0.03))
    arms = False
    for s, word in SIDES:
        rest.keypoint(f"back_top_{word}", (0.0, back * 0.95, s * wide * 0.93), "backrest")
        pen.keypoint(f"seat_front_{word}", (deep * 0.95, seat, s * wide * 0.93), "seat", "leg")
        arms = arms or (s == 1 and rng.random() < 0.3)
        if arms:
            high = seat + 0.22
            pen.limb("arm", (-deep * 0.9, high, s * wide), (deep * 0.8, high, s * wide), leg, leg)
            pen.limb("arm", (deep * 0.75, high, s * wide), (deep * 0.75, seat, s * wide), leg, leg)


def house(pen: Pen, rng: np.random.Generator) -> None:
    """Walls, a gabled roof of two slabs, a door in front (+x), windows and a chimney."""
    deep, wide, high = float(rng.uniform(0.4, 0.6)), float(rng.uniform(0.45, 0.85)), float(rng.uniform(0.25, 0.55))
    pen.box("wall", (0, high, 0), (deep, high, wide))
    rise, over = float(rng.uniform(0.25, 0.6)), 1.12
    half = float(np.sqrt(rise * rise + deep * over * (deep * over))) / 2
    for s in (1, -1):
        centre = (s * deep * over / 2, 2 * high + rise / 2 - 0.02, 0)
        pen.box("roof", centre, (half, 0.035, wide * 1.1), slope(deep * over, -s * rise), "roof")
    for k in range(6):
        share = (k + 0.5) / 6
        pen.box("wall", (0, 2 * high + rise * share - 0.04, 0), (deep * (1 - share), rise / 12, wide * 0.995))
    for s, word in SIDES:
        pen.keypoint(f"roof_top_{word}", (0, 2 * high + rise, s * wide * 1.08), "roof")
        pen.keypoint(f"roof_front_{word}", (deep * over * 0.98, 2 * high - 0.02, s * wide * 1.08), "roof", "wall")
        pen.keypoint(f"wall_front_{word}", (deep, 0.03, s * wide * 0.98), "wall")
    door = float(rng.uniform(-0.4, 0.4)) * wide
    pen.box("door", (deep, high * 0.55, door), (0.02, high * 0.55, 0.11), material="third")
    pen.ellipsoid("handle", (deep + 0.03, high * 0.5, door + 0.07), 0.016, material="metal")
    pen.keypoint("door", (deep + 0.02, high * 0.6, door), "door")
    panes = [(z, y) for z in (-0.62, 0.0, 0.62) for y in (1.05, 1.6)]
    for z, y in panes:
        if abs(z * wide - door) < 0.24 and y < 1.2:
            continue
        pen.box("window", (deep, high * y, z * wide), (0.012, high * 0.2, 0.1), material="glass")
        pen.box("wall", (deep, high * (y - 0.23), z * wide), (0.03, 0.018, 0.12), material="white")
    for s, _ in SIDES:
        for x in (-0.45, 0.45):
            pen.box("window", (x * deep, high * 1.2, s * wide), (0.1, high * 0.22, 0.012), material="glass")
    if rng.random() < 0.7:
        x, z = -deep * 0.4, wide * float(rng.uniform(-0.6, 0.6))
        top = 2 * high + rise + 0.12
        pen.box("chimney", (x, top - 0.25, z), (0.07, 0.25, 0.07), material="brick")
        pen.keypoint("chimney_top", (x, top - 0.01, z), "chimney")


def tree(pen: Pen, rng: np.random.Generator) -> None:
    """A broad-leaved tree, a fir or a palm."""
    kind = str(rng.choice(["broad", "fir", "palm"], p=[0.5, 0.3, 0.2]))
    tall, thick = float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.05, 0.11))
    lean = normal(rng, 0, 0.08)
    top = np.array([lean, tall, normal(rng, 0, 0.06)])
    pen.limb("trunk", (0, 0, 0), top, thick * 1.3, thick * 0.7, "bark")
    pen.keypoint("root", (0, 0.04, 0), "trunk")
    crown, wide = 0.0, 0.5
    if kind == "broad":
        wide, crown = float(rng.uniform(0.35, 0.6)), float(rng.uniform(0.35, 0.6))
        for _ in range(16):
            spot = normal(rng, 0, 1, 3)
            spot *= 0.65 / norm(spot)
            place = top + spot * [wide, crown, wide] + [0, crown * 0.6, 0]
            pen.ellipsoid("foliage", place, float(rng.uniform(0.4, 0.6)) * (wide + crown) / 2, material="leaves")
        crown = crown * 1.85
        for k in range(2):
            tip = top + [0.3 * (1 - 2 * k), 0.3, normal(rng, 0, 0.1)]
            pen.limb("trunk", top - [0, 0.15, 0], tip, thick * 0.6, thick * 0.3, "bark")
    elif kind == "fir":
        wide = float(rng.uniform(0.35, 0.5))
        for k in range(4):
            low = top[1] * 0.45 + k * 0.28
            radius = wide * (1 - k * 0.22)
            pen.frustum("foliage", (lean, low, 0), (lean, low + 0.5, 0), radius, radius * 0.12, "leaves")
        crown = top[1] * 0.45 + 3 * 0.28 + 0.5 - top[1]
    else:
        crown, wide = 0.22, 0.6
        for k in range(9):
            a = k * 2 * np.pi / 9 + normal(rng, 0, 0.15)
            out = np.array([cos(a), 0, sin(a)])
            middle = top + out * 0.3 + [0, 0.16, 0]
            tip = top + out * 0.62 + [0, float(rng.uniform(-0.2, 0.05)), 0]
            pen.chain("foliage", [top, middle, tip], [0.04, 0.07, 0.015], "leaves")
    pen.keypoint("trunk_top", top * [1, 0.6 if kind != "palm" else 0.97, 1], "trunk", "foliage")
    pen.keypoint("crown_top", top + [0, crown, 0], "foliage", "trunk")
    for z, word in SIDES:
        side = {
            "broad": top + [0, crown * 0.33, z * wide * 0.95],
            "fir": np.array([lean, top[1] * 0.45 + 0.02, z * wide]),
            "palm": top + [0, 0.1, z * 0.45],
        }[kind]
        pen.keypoint(f"crown_{word}", side, "foliage")
    for x, word in ((1, "front"), (-1, "back")):
        side = {
            "broad": top + [x * wide * 0.95, crown * 0.33, 0],
            "fir": np.array([lean + x * wide, top[1] * 0.45 + 0.02, 0]),
            "palm": top + [x * 0.45, 0.1, 0],
        }[kind]
        pen.keypoint(f"crown_{word}", side, "foliage")


def flower(pen: Pen, rng: np.random.Generator) -> None:
    """A stem with leaves and a blossom of petals that looks up and forward."""
    tall = float(rng.uniform(0.4, 1.0))
    sway = normal(rng, 0, 0.1)
    top = np.array([sway, tall, normal(rng, 0, 0.08)])
    middle = np.array([sway * 0.2, tall * 0.5, 0])
    pen.chain("trunk", [(0, 0, 0), middle, top], [0.03, 0.026, 0.022], "leaves")
    pen.keypoint("root", (0, 0.03, 0), "trunk")
    for s, word in SIDES:
        leaf = pen.at(middle * 0.6, turn(yaw=normal(rng, 0, 30), roll=s * float(rng.uniform(20, 55))))
        leaf.ellipsoid("foliage", (0, 0, s * 0.2), (0.075, 0.014, 0.2), material="leaves")
        leaf.keypoint(f"{word}_leaf_tip", (0, 0, s * 0.37), "foliage")
    bloom = pen.at(top, turn(yaw=normal(rng, 0, 25), pitch=float(rng.uniform(5, 55))))
    core = float(rng.uniform(0.07, 0.14))
    bloom.ellipsoid("flower", (0.03, 0, 0), (0.06, core, core), material="third")
    bloom.keypoint("flower_centre", (0.08, 0, 0), "flower")
    petals, long = int(rng.integers(5, 11)), float(rng.uniform(0.18, 0.34))
    cup = float(rng.uniform(-10, 35))
    for k in range(petals):
        petal = bloom.at((0, 0, 0), product(turn(roll=k * 360 / petals), turn(pitch=-cup)))
        petal.ellipsoid("flower", (0, core * 0.7 + long * 0.5, 0), (0.02, long * 0.55, long * 0.32), material="petal")
    for k, word in enumerate(("top", "right", "bottom", "left")):
        nearest = turn(roll=k * 90)
        bloom.at((0, 0, 0), product(nearest, turn(pitch=-cup))).keypoint(
            f"petal_{word}", (0.02, core * 0.7 + long * 0.55, 0), "flower"
        )


def bottle(pen: Pen, rng: np.random.Generator) -> None:
    """A bottle with a neck, a cap and a label facing +x."""
    lying = rng.random() < 0.2
    pen.figure.pose = "lying" if lying else "standing"
    radius, tall = float(rng.uniform(0.14, 0.26)), float(rng.uniform(0.45, 0.8))
    pen = pen.at((0, radius, 0), turn(pitch=90)) if lying else pen
    neck, thin = float(rng.uniform(0.14, 0.4)), float(rng.uniform(0.3, 0.5)) * radius
    shoulder = float(rng.uniform(0.08, 0.22))
    glass = "glass" if rng.random() < 0.45 else "main"
    pen.frustum("body", (0, 0, 0), (0, tall, 0), radius, radius * float(rng.uniform(0.85, 1.0)), glass)
    pen.frustum("body", (0, tall, 0), (0, tall + shoulder, 0), radius * 0.93, thin, glass)
    pen.frustum("neck", (0, tall + shoulder, 0), (0, tall + shoulder + neck, 0), thin, thin * 0.9, glass)
    lid = float(rng.uniform(0.05, 0.1))
    end = tall + shoulder + neck
    pen.frustum("cap", (0, end, 0), (0, end + lid, 0), thin * 1.12, thin * 1.1, "third")
    low, high = tall * 0.2, tall * float(rng.uniform(0.6, 0.8))
    pen.frustum("neckpiece", (0, low, 0), (0, high, 0), radius * 1.015, radius * 1.01, "second")
    pen.ellipsoid("neckpiece", (radius * 0.9, (low + high) / 2, 0), (radius * 0.2, 0.07, 0.09), material="white")
    pen.keypoint("cap_top", (0, end + lid, 0), "cap")
    pen.keypoint("label_centre", (radius * 1.08, (low + high) / 2, 0), "neckpiece")
    for s, word in SIDES:
        pen.keypoint(f"shoulder_{word}", (0, tall, s * radius * 0.9), "body")
        pen.keypoint(f"base_{word}", (0, 0.02, s * radius * 0.97), "body")
    pen.keypoint("neck_base", (thin, tall + shoulder, 0), "neck", "body")
    pen.keypoint("neck_top", (thin, end - 0.01, 0), "neck", "cap")


def cup(pen: Pen, rng: np.random.Generator) -> None:
    """A cup or mug with a handle at +x, perhaps on a saucer; the drink shows from above."""
    radius, tall = float(rng.uniform(0.28, 0.42)), float(rng.uniform(0.4, 0.8))
    foot = radius * float(rng.uniform(0.55, 1.0))
    pen.frustum("body", (0, 0.03, 0), (0, tall, 0), foot, radius)
    pen.frustum("rim", (0, tall * 0.97, 0), (0, tall + 0.03, 0), radius * 1.03, radius * 1.04, "second")
    pen.frustum("mouth", (0, tall, 0), (0, tall + 0.034, 0), radius * 0.93, radius * 0.93, "drink")
    angles = np.linspace(-80, 80, 6)
    hold = float(rng.uniform(0.16, 0.26))
    points = [
        np.array([radius * 0.85 + hold * cos(np.deg2rad(a)) * 1.1, tall * 0.52 + hold * sin(np.deg2rad(a)), 0])
        for a in angles
    ]
    pen.chain("handle", list(points), [0.042] * 6)
    pen.keypoint("handle", (points[2] + points[3]) / 2 + [0.02, 0, 0], "handle")
    pen.keypoint("rim_front", (radius, tall + 0.02, 0), "rim", "mouth")
    pen.keypoint("rim_back", (-radius, tall + 0.02, 0), "rim", "mouth")
    pen.keypoint("base_front", (foot * 0.97, 0.05, 0), "body")
    pen.keypoint("base_back", (-foot * 0.97, 0.05, 0), "body")
    pen.keypoint("drink", (0, tall + 0.034, 0), "mouth")
    for s, word in SIDES:
        pen.keypoint(f"rim_{word}", (0, tall + 0.02, s * radius), "rim", "mouth")
        pen.keypoint(f"base_{word}", (0, 0.05, s * foot * 0.97), "body")
    if rng.random() < 0.5:
        pen.frustum("foot", (0, 0, 0), (0, 0.045, 0), foot * 1.2, foot * float(rng.uniform(1.6, 2.0)), "third")
