"""Bird, fish, beetle, spider and person."""

from __future__ import annotations

import numpy as np

from diffeat.datasets.toyworld.exact import cos, norm, normal, product, sin
from diffeat.datasets.toyworld.figure import SIDES, Pen, turn


def _eyes(pen: Pen, places: list[tuple[str, np.ndarray, np.ndarray]], radius: float, material: str = "iris") -> None:
    for word, place, outward in places:
        outward = outward / norm(outward)
        pen.ellipsoid("eye", place, radius, material=material)
        pen.ellipsoid("eye", place + outward * radius * 0.5, radius * 0.65, material="dark")
        pen.ellipsoid("eye", place + outward * radius + [0, radius * 0.3, 0], radius * 0.2, material="glint")
        pen.keypoint(f"{word}_eye", place + outward * radius * 0.9, "eye")


def bird(pen: Pen, rng: np.random.Generator) -> None:
    """A perching or flying bird; long-necked and short-necked builds."""
    flying = rng.random() < 0.35
    pen.figure.pose = "flying" if flying else "standing"
    leg = float(rng.uniform(0.15, 0.6))
    plump = float(rng.uniform(0.2, 0.32))
    pitch = float(rng.uniform(-5, 15)) if flying else float(rng.uniform(10, 48))
    body = pen.at((0, leg + plump, 0), turn(pitch=pitch))
    body.ellipsoid("torso", (0, 0, 0), (0.48, plump, plump * 0.9))
    body.ellipsoid("torso", (0.18, -plump * 0.18, 0), (0.3, plump * 0.92, plump * 0.86), material="second")
    neck = float(rng.uniform(0.1, 0.5)) if rng.random() < 0.4 else float(rng.uniform(0.02, 0.12))
    size = float(rng.uniform(0.15, 0.21))
    base = body.at((0.36, plump * 0.45, 0), turn(pitch=-pitch + float(rng.uniform(40, 75))))
    base.limb("neck", (-0.1, 0, 0), (neck, 0, 0), plump * 0.55, size * 0.6)
    top = pen.at(base.point((neck + size * 0.5, 0, 0)), turn(yaw=normal(rng, 0, 30), pitch=normal(rng, -3, 8)))
    top.ellipsoid("head", (0, 0, 0), (size * 1.08, size, size * 0.95))
    beak, hook = float(rng.uniform(0.1, 0.34)), float(rng.uniform(-0.1, 0.0))
    top.frustum("beak", (size * 0.8, -size * 0.1, 0), (size + beak, -size * 0.1 + hook, 0), size * 0.36, 0.012, "beak")
    top.keypoint("beak_tip", (size + beak * 0.9, -size * 0.1 + hook * 0.9, 0), "beak")
    if rng.random() < 0.25:
        for k in range(3):
            top.limb(
                "hair", (-size * 0.2, size * 0.8, 0), (-size * (0.9 + 0.3 * k), size * (1.7 - 0.3 * k), 0), 0.03, 0.01
            )
    places = [
        (word, np.array([size * 0.45, size * 0.3, s * size * 0.78]), np.array([0.4, 0.15, s])) for s, word in SIDES
    ]
    _eyes(top, places, size * 0.22)
    tail = float(rng.uniform(0.3, 0.75))
    fan = body.at((-0.38, 0, 0), turn(pitch=float(rng.uniform(-15, 15))))
    fan.ellipsoid("tail", (-tail * 0.5, 0, 0), (tail * 0.58, 0.035, float(rng.uniform(0.07, 0.2))), material="third")
    body.keypoint("tail_base", (-0.42, 0.02, 0), "torso", "tail")
    fan.keypoint("tail_tip", (-tail * 1.0, 0, 0), "tail")
    body.keypoint("breast", (0.4, -plump * 0.35, 0), "torso")
    lift = float(rng.uniform(-35, 60))
    for s, word in SIDES:
        if flying:
            span = float(rng.uniform(0.7, 1.0))
            wing = body.at((0.1, plump * 0.5, s * plump * 0.6), turn(roll=-s * lift))
            wing.ellipsoid("wing", (-0.02, 0, s * span * 0.3), (0.26, 0.035, span * 0.36), material="third")
            slant = turn(yaw=s * float(rng.uniform(10, 35)))
            outer = wing.at((-0.03, 0, s * span * 0.5), product(slant, turn(roll=s * float(rng.uniform(0, 25)))))
            outer.ellipsoid("wing", (-0.06, 0, s * span * 0.3), (0.17, 0.03, span * 0.4), material="third")
            outer.keypoint(f"{word}_wing_tip", (-0.06, 0, s * span * 0.66), "wing")
        else:
            axes = turn(yaw=s * 6, pitch=-float(rng.uniform(2, 14)))
            wing = body.at((-0.12, plump * 0.2, s * plump * 0.78), axes)
            wing.ellipsoid("wing", (0, 0, 0), (0.42, plump * 0.58, plump * 0.24), material="third")
            wing.keypoint(f"{word}_wing_tip", (-0.39, -0.01, 0), "wing")
        hip = body.point((-0.06, -plump * 0.8, s * plump * 0.4))
        reach = leg * (0.5 if flying else 1.0)
        knee = hip + [-0.06, -reach * 0.5, 0]
        foot = knee + [-0.12, -reach * 0.4, 0] if flying else np.array([hip[0] + 0.04, 0.02, hip[2]])
        pen.limb("leg", hip, knee, 0.05, 0.03, "beak")
        pen.limb("leg", knee, foot, 0.028, 0.022, "beak")
        for toe in (-0.6, 0, 0.6):
            pen.limb("foot", foot, foot + [0.12 * cos(toe), 0, 0.12 * sin(toe)], 0.022, 0.014, "beak")
        pen.keypoint(f"{word}_foot", foot, "foot", "leg")


def fish(pen: Pen, rng: np.random.Generator) -> None:
    """A fish with a bendable tail."""
    pen.figure.pose = "swimming"
    pen = pen.at((0, 0.6, 0), turn(pitch=normal(rng, 0, 10)))
    high, wide = float(rng.uniform(0.14, 0.36)), float(rng.uniform(0.08, 0.15))
    pen.ellipsoid("torso", (0, 0, 0), (0.5, high, wide))
    pen.ellipsoid("head", (0.24, -0.01, 0), (0.29, high * 0.86, wide * 1.02), material="second")
    bend = normal(rng, 0, 22)
    rear = pen.at((-0.3, 0, 0), turn(yaw=bend))
    rear.frustum("torso", (0.05, 0, 0), (-0.3, 0, 0), high * 0.75, high * 0.22, flat=wide / high)
    flap = rear.at((-0.28, 0, 0), turn(yaw=bend))
    spread, long = float(rng.uniform(0.16, 0.36)), float(rng.uniform(0.18, 0.3))
    for s, word in ((1, "upper"), (-1, "lower")):
        flap.ellipsoid("tail", (-long * 0.45, s * spread * 0.5, 0), (long * 0.32, spread * 0.68, 0.02),
                       turn(pitch=s * float(rng.uniform(25, 45))), "third")  # fmt: skip
        flap.keypoint(f"{word}_tail_tip", (-long * 0.78, s * spread * 0.98, 0), "tail")
    rear.keypoint("tail_base", (-0.27, 0, 0), "torso", "tail")
    crest, where = float(rng.uniform(0.1, 0.26)), float(rng.uniform(-0.12, 0.1))
    pen.ellipsoid("fin", (where, high * 0.85, 0), (0.22, crest, 0.018), turn(pitch=-15), "third")
    pen.keypoint("top_fin", (where - 0.02, high * 0.85 + crest * 0.9, 0), "fin")
    pen.ellipsoid("fin", (where - 0.15, -high * 0.8, 0), (0.12, crest * 0.7, 0.018), turn(pitch=30), "third")
    pen.keypoint("bottom_fin", (where - 0.19, -high * 0.8 - crest * 0.55, 0), "fin")
    for s, word in SIDES:
        fin = pen.at((0.12, -high * 0.25, s * wide * 0.95), turn(yaw=s * float(rng.uniform(15, 60)), pitch=20))
        fin.ellipsoid("fin", (-0.1, 0, 0), (0.13, 0.07, 0.015), material="third")
        fin.keypoint(f"{word}_fin_tip", (-0.2, 0, 0), "fin")
    places = [(w, np.array([0.36, high * 0.24, s * wide * 0.72]), np.array([0.15, 0.1, s])) for s, w in SIDES]
    _eyes(pen, places, float(rng.uniform(0.04, 0.065)), "white" if rng.random() < 0.5 else "iris")
    pen.ellipsoid("mouth", (0.51, -high * 0.12, 0), (0.04, 0.028, wide * 0.4), material="skin")
    pen.keypoint("mouth", (0.53, -high * 0.12, 0), "mouth", "head")


def beetle(pen: Pen, rng: np.random.Generator) -> None:
    """A six-legged insect: beetle, ant or fly by the size of its segments and wings."""
    slim, up = float(rng.uniform(0.14, 0.32)), float(rng.uniform(0.2, 0.34))
    pen.ellipsoid("torso", (-0.3, up, 0), (0.4, slim * 0.9, slim))
    pen.ellipsoid("neck", (0.14, up, 0), (0.18, slim * 0.65, slim * 0.72), material="second")
    size = float(rng.uniform(0.11, 0.17))
    pen.ellipsoid("head", (0.38, up, 0), (size, size * 0.85, size), material="third")
    pen.keypoint("tail_tip", (-0.69, up, 0), "torso")
    pen.keypoint("waist", (0.03, up + slim * 0.45, 0), "neck", "torso", "wing")
    winged = rng.random() < 0.4
    for s, word in SIDES:
        eye = np.array([0.43, up + size * 0.4, s * size * 0.75])
        pen.ellipsoid("eye", eye, size * 0.38, material="dark")
        pen.keypoint(f"{word}_eye", eye + [0.02, 0.02, s * size * 0.3], "eye")
        tip = np.array([0.7, up + float(rng.uniform(0.1, 0.35)), s * float(rng.uniform(0.1, 0.35))])
        elbow = np.array([0.52, tip[1] + 0.05, tip[2] * 0.6])
        pen.chain("antenna", [(0.45, up + size * 0.5, s * 0.05), elbow, tip], [0.018, 0.014, 0.012], "dark")
        pen.keypoint(f"{word}_antenna_tip", tip, "antenna")
        if winged:
            wing = pen.at((0.05, up + slim * 0.6, s * 0.06), turn(yaw=-s * float(rng.uniform(15, 60)), pitch=-8))
            wing.ellipsoid("wing", (-0.4, 0, 0), (0.45, 0.015, 0.15), material="white")
        else:
            pen.ellipsoid("wing", (-0.3, up + slim * 0.15, s * slim * 0.42), (0.4, slim * 0.85, slim * 0.6))
        for k, place in enumerate((("front", 0.24), ("middle", 0.1), ("back", -0.04))):
            yaw = np.deg2rad((50, 90, 132)[k] + normal(rng, 0, 10))
            out = np.array([cos(yaw), 0, s * sin(yaw)])
            knee = np.array([place[1], up, s * slim * 0.4]) + out * 0.3 + [0, float(rng.uniform(0.08, 0.2)), 0]
            foot = knee + out * float(rng.uniform(0.18, 0.35))
            foot[1] = 0.02
            thick = float(rng.uniform(0.02, 0.035))
            pen.chain("leg", [(place[1], up, s * slim * 0.4), knee, foot], [thick, thick, thick * 0.5], "dark")
            if k != 1:
                pen.keypoint(f"{place[0]}_{word}_foot", foot, "leg")


def spider(pen: Pen, rng: np.random.Generator) -> None:
    """Eight legs around two balls."""
    up, fat = float(rng.uniform(0.22, 0.4)), float(rng.uniform(0.2, 0.34))
    pen.ellipsoid("torso", (-0.3, up + 0.05, 0), (fat * 1.25, fat, fat))
    pen.ellipsoid("head", (0.12, up, 0), (0.2, 0.14, 0.17), material="second")
    pen.keypoint("tail_tip", (-0.3 - fat * 1.23, up + 0.05, 0), "torso")
    pen.keypoint("waist", (-0.04, up + 0.1, 0), "torso", "head")
    pen.keypoint("nose", (0.32, up, 0), "head", "mouth")
    thick = float(rng.uniform(0.022, 0.045))
    long = float(rng.uniform(0.4, 0.65))
    for s, word in SIDES:
        eye = np.array([0.26, up + 0.09, s * 0.06])
        pen.ellipsoid("eye", eye, 0.04, material="dark")
        pen.ellipsoid("eye", eye + [0.03, 0.02, 0], 0.012, material="glint")
        pen.keypoint(f"{word}_eye", eye + [0.03, 0, 0], "eye")
        pen.limb("mouth", (0.28, up - 0.05, s * 0.05), (0.36, up - 0.14, s * 0.03), 0.03, 0.012, "dark")
        for k in range(4):
            yaw = np.deg2rad((30, 68, 105, 145)[k] + normal(rng, 0, 8))
            out = np.array([cos(yaw), 0, s * sin(yaw)])
            hip = np.array([0.12, up, s * 0.12])
            knee = hip + out * long * 0.6 + [0, float(rng.uniform(0.12, 0.35)), 0]
            foot = knee + out * long
            foot[1] = 0.0
            pen.chain("leg", [hip, knee, foot], [thick * 1.2, thick, thick * 0.4], "main")
            if k in (0, 3):
                pen.keypoint(f"{'front' if k == 0 else 'back'}_{word}_foot", foot, "leg")


def person(pen: Pen, rng: np.random.Generator) -> None:
    """A clothed person: standing, walking, waving or sitting on the ground."""
    pose = str(rng.choice(["standing", "walking", "waving", "sitting"], p=[0.3, 0.3, 0.25, 0.15]))
    pen.figure.pose = pose
    leg = float(rng.uniform(0.8, 0.95))
    hip_height = 0.14 if pose == "sitting" else leg
    build = float(rng.uniform(0.85, 1.25))
    trunk = pen.at((0, hip_height, 0), turn(pitch=normal(rng, 0, 5), roll=normal(rng, 0, 4), yaw=normal(rng, 0, 8)))
    shoulder = 0.2 * build
    trunk.ellipsoid("torso", (0, 0.05, 0), (0.13 * build, 0.14, 0.17 * build), material="trousers")
    trunk.ellipsoid("torso", (0, 0.26, 0), (0.12 * build, 0.26, 0.17 * build), material="shirt")
    trunk.ellipsoid("torso", (0, 0.44, 0), (0.12 * build, 0.14, shoulder * 1.05), material="shirt")
    trunk.limb("neck", (0, 0.5, 0), (0.01, 0.64, 0), 0.06, 0.055, "skin")
    trunk.keypoint("neck", (0.05, 0.57, 0), "neck", "torso", "hair", "head")
    stride = float(rng.uniform(15, 35)) if pose == "walking" else float(rng.uniform(0, 6))
    for s, word in SIDES:
        joint = trunk.point((0, 0.0, s * 0.1 * build))
        if pose == "sitting":
            spread = float(rng.uniform(0.02, 0.15))
            knee = joint + [0.38, float(rng.uniform(0.02, 0.32)), s * spread]
            foot = np.array([knee[0] + 0.3, 0.06, knee[2] + s * 0.02])
        else:
            a = np.deg2rad(s * stride + normal(rng, 0, 3))
            b = a - np.deg2rad(max(0.0, -s * stride) * 0.7 + 3)
            knee = joint + 0.48 * leg * np.array([sin(a), -cos(a), 0.04 * s])
            foot = knee + 0.48 * leg * np.array([sin(b), -cos(b), 0.02 * s])
        pen.limb("leg", joint, knee, 0.1 * build, 0.07 * build, "trousers")
        pen.limb("leg", knee, foot, 0.068 * build, 0.05, "trousers")
        pen.ellipsoid("foot", foot + [0.06, -0.02, 0], (0.13, 0.05, 0.055), material="shoes")
        pen.keypoint(f"{word}_knee", knee, "leg")
        pen.keypoint(f"{word}_foot", foot + [0.06, -0.02, 0], "foot")
        root = trunk.point((0, 0.48, s * shoulder))
        up = pose == "waving" and s == int(rng.choice([1, -1]))
        swing = np.deg2rad(150 if up else -s * stride * 1.1 + normal(rng, 0, 12))
        out = np.deg2rad(float(rng.uniform(4, 28)) if not up else float(rng.uniform(10, 40)))
        direction = np.array([sin(swing) * 0.8, -cos(swing), s * sin(out)])
        elbow = root + 0.28 * direction / norm(direction)
        bend = direction + np.array([float(rng.uniform(0.1, 1.0)), 0.2, -s * float(rng.uniform(0, 0.4))])
        hand = elbow + 0.26 * bend / norm(bend)
        sleeve = "skin" if rng.random() < 0.35 else "shirt"
        pen.limb("arm", root, elbow, 0.065 * build, 0.052, "shirt")
        pen.limb("arm", elbow, hand, 0.05, 0.04, sleeve)
        pen.ellipsoid("hand", hand, 0.055, material="skin")
        pen.keypoint(f"{word}_elbow", elbow, "arm")
        pen.keypoint(f"{word}_hand", hand, "hand")
    top = trunk.at((0.03, 0.77, 0), turn(yaw=normal(rng, 0, 25), pitch=normal(rng, 0, 8), roll=normal(rng, 0, 6)))
    _face(top, rng)


def _face(pen: Pen, rng: np.random.Generator) -> None:
    long, wide = float(rng.uniform(0.15, 0.175)), float(rng.uniform(0.115, 0.135))
    pen.ellipsoid("head", (0, 0, 0), (0.13, long, wide), material="skin")
    pen.ellipsoid("head", (0.03, -long * 0.5, 0), (0.095, long * 0.5, wide * 0.72), material="skin")
    style = str(rng.choice(["short", "long", "bald", "hat"], p=[0.42, 0.35, 0.1, 0.13]))
    if style in ("short", "long"):
        pen.ellipsoid("hair", (-0.03, long * 0.3, 0), (0.132, long * 0.86, wide * 1.13), material="hair")
        for s in (1, -1):
            pen.ellipsoid(
                "hair", (0.05, long * 0.75, s * wide * 0.4), (0.075, long * 0.25, wide * 0.6), material="hair"
            )
    if style == "long":
        fall = float(rng.uniform(0.15, 0.35))
        pen.ellipsoid("hair", (-0.075, -fall * 0.55, 0), (0.085, fall, wide * 1.15), material="hair")
    if style == "hat":
        pen.frustum("hair", (-0.01, long * 0.42, 0), (-0.01, long * 1.3, 0), 0.145, 0.11, "hat")
        pen.frustum("hair", (0.02, long * 0.4, 0), (0.02, long * 0.47, 0), 0.22, 0.22, "hat")
    pen.ellipsoid("nose", (0.135, -0.012, 0), (0.026, 0.03, 0.02), material="skin")
    pen.ellipsoid("nose", (0.12, 0.015, 0), (0.018, 0.045, 0.013), material="skin")
    pen.keypoint("nose", (0.158, -0.014, 0), "nose")
    smile = float(rng.uniform(0.012, 0.03))
    pen.ellipsoid("mouth", (0.11, -long * 0.53, 0), (0.02, 0.012, 0.045), material="lips")
    if smile > 0.021:
        pen.ellipsoid("mouth", (0.118, -long * 0.53, 0), (0.016, 0.005, 0.034), material="white")
    pen.keypoint("mouth", (0.128, -long * 0.53, 0), "mouth")
    for s, word in SIDES:
        place = np.array([0.098, long * 0.14, s * wide * 0.4])
        pen.ellipsoid("eye", place, (0.022, 0.015, 0.027), material="white")
        pen.ellipsoid("eye", place + [0.012, 0, 0], (0.012, 0.0125, 0.0125), material="iris")
        pen.ellipsoid("eye", place + [0.019, 0, 0], 0.007, material="dark")
        pen.keypoint(f"{word}_eye", place + [0.022, 0, 0], "eye")
        pen.ellipsoid("hair", place + [0.012, 0.035, 0], (0.014, 0.0075, 0.032), material="hair")
        pen.ellipsoid("ear", (-0.005, 0.0, s * wide * 1.0), (0.026, 0.04, 0.016), material="skin")
