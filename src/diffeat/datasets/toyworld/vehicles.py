"""Car, bicycle, airplane and boat."""

from __future__ import annotations

import numpy as np

from diffeat.datasets.toyworld.exact import cos, norm, normal, product, sin
from diffeat.datasets.toyworld.figure import SIDES, Pen, slope, turn


def _wheel(pen: Pen, centre: np.ndarray, radius: float, width: float) -> None:
    across = np.array([0, 0, width])
    pen.frustum("wheel", centre - across, centre + across, radius, radius, "tyre")
    pen.frustum("rim", centre - across * 1.08, centre + across * 1.08, radius * 0.6, radius * 0.6, "metal")
    pen.frustum("rim", centre - across * 1.15, centre + across * 1.15, radius * 0.17, radius * 0.17, "dark")


def car(pen: Pen, rng: np.random.Generator) -> None:
    """A saloon, van or pick-up."""
    build = str(rng.choice(["saloon", "hatchback", "van", "pickup"], p=[0.4, 0.25, 0.2, 0.15]))
    pen.figure.pose = "parked"
    half, wide = float(rng.uniform(0.9, 1.15)), float(rng.uniform(0.38, 0.46))
    wheel = float(rng.uniform(0.17, 0.23))
    belt = wheel + float(rng.uniform(0.28, 0.36))
    floor = wheel * 0.7
    pen.box("body", (0, (floor + belt) / 2, 0), (half, (belt - floor) / 2, wide))
    pen.ellipsoid("body", (half * 0.93, (floor + belt) / 2, 0), (0.16, (belt - floor) * 0.5, wide * 0.97))
    pen.ellipsoid("body", (-half * 0.95, (floor + belt) / 2, 0), (0.13, (belt - floor) * 0.5, wide * 0.97))
    pen.ellipsoid("body", (half * 0.55, belt, 0), (half * 0.42, 0.06, wide * 0.9))
    high = {"saloon": 0.3, "hatchback": 0.34, "van": 0.55, "pickup": 0.36}[build] * float(rng.uniform(0.9, 1.1))
    front, back = {
        "saloon": (0.25, -0.55), "hatchback": (0.22, -0.9), "van": (0.55, -0.97), "pickup": (0.35, -0.2),
    }[build]  # fmt: skip
    front, back = front * half, back * half
    slope_front, slope_back = high * 0.75, {"saloon": 0.7, "hatchback": 0.35, "van": 0.04, "pickup": 0.1}[build] * high
    centre, length = (front + back) / 2, (front - back) / 2
    pen.box("window", (centre, belt + high * 0.45, 0), (length * 0.98, high * 0.45, wide * 0.86), material="glass")
    for x, slant in ((front, slope_front), (back, -slope_back)):
        a = np.array([x + slant * 0.5, belt, 0])
        b = np.array([x - slant * 0.35, belt + high, 0])
        pen.box("window", (a + b) / 2 - [0.05 * np.sign(slant), 0, 0],
                (float(norm(b - a)) / 2, 0.03, wide * 0.8), slope(b[0] - a[0], b[1] - a[1]), "glass")  # fmt: skip
        for s, _ in SIDES:
            pen.limb("body", a + [0, 0, s * wide * 0.86], b + [0, 0, s * wide * 0.82], 0.035, 0.03)
    pen.box("roof", (centre - 0.02, belt + high * 0.97, 0), (length * 0.86, 0.035, wide * 0.84))
    middle = centre - 0.02
    for s, _ in SIDES:
        pen.box("body", (middle, belt + high * 0.5, s * wide * 0.86), (0.03, high * 0.5, 0.02))
        pen.box("handle", (middle + 0.12, belt - 0.07, s * wide * 1.01), (0.05, 0.012, 0.012), material="metal")
    if build == "pickup":
        for s, _ in SIDES:
            pen.box("body", (-half * 0.6, belt + 0.05, s * wide * 0.94), (half * 0.4, 0.07, 0.025))
    for end, x in (("front", half * 0.62), ("back", -half * 0.62)):
        for s, word in SIDES:
            hub = np.array([x, wheel, s * wide * 0.92])
            _wheel(pen, hub, wheel, 0.09)
            pen.keypoint(f"{end}_{word}_wheel", hub + [0, 0, s * 0.1], "rim", "wheel")
    for s, word in SIDES:
        lamp = np.array([half * 1.03, belt - 0.14, s * wide * 0.68])
        pen.ellipsoid("light", lamp, (0.05, 0.06, 0.09), material="lamp")
        pen.keypoint(f"{word}_headlight", lamp + [0.04, 0, 0], "light")
        lamp = np.array([-half * 1.03, belt - 0.12, s * wide * 0.72])
        pen.box("light", lamp, (0.03, 0.06, 0.07), material="red")
        pen.keypoint(f"{word}_taillight", lamp + [-0.03, 0, 0], "light")
        roof_front = np.array([centre + length * 0.8, belt + high, s * wide * 0.78])
        pen.keypoint(f"{word}_roof_front", roof_front, "roof", "body", "window")
        roof_back = np.array([centre - length * 0.84, belt + high, s * wide * 0.78])
        pen.keypoint(f"{word}_roof_back", roof_back, "roof", "body", "window")
    pen.box("body", (half * 1.08, floor + 0.07, 0), (0.03, 0.05, wide * 0.9), material="dark")
    pen.box("light", (half * 1.09, belt - 0.16, 0), (0.02, 0.05, wide * 0.4), material="metal")


def bicycle(pen: Pen, rng: np.random.Generator) -> None:
    """Two wheels of segments, a frame of tubes, a saddle and a handlebar."""
    pen.figure.pose = "parked"
    radius, base = float(rng.uniform(0.32, 0.4)), float(rng.uniform(0.48, 0.58))
    tube = float(rng.uniform(0.022, 0.035))
    hubs = {"front": np.array([base, radius, 0.0]), "back": np.array([-base, radius, 0.0])}
    for end, hub in hubs.items():
        angles = np.linspace(0, 2 * np.pi, 15)
        ring = [hub + radius * np.array([cos(a), sin(a), 0]) for a in angles]
        for k in range(14):
            pen.frustum("wheel", ring[k], ring[k + 1], tube * 1.25, tube * 1.25, "tyre")
        for k in range(0, 14, 2):
            pen.frustum("rim", hub, ring[k], 0.007, 0.007, "metal")
        pen.frustum("rim", hub - [0, 0, 0.05], hub + [0, 0, 0.05], 0.04, 0.04, "metal")
        pen.keypoint(f"{end}_wheel", hub, "rim", "frame")
    crank = np.array([-0.06, radius * 0.95, 0])
    seat = np.array([-0.24, radius + float(rng.uniform(0.42, 0.56)), 0])
    head = np.array([base - 0.2, radius + float(rng.uniform(0.4, 0.5)), 0])
    for a, b in (
        (hubs["back"], crank),
        (crank, seat),
        (hubs["back"], seat),
        (crank, head),
        (seat - [0, 0.08, 0], head),
    ):
        pen.limb("frame", a, b, tube, tube)
    pen.limb("frame", hubs["front"], head, tube, tube)
    top = head + [-0.04, 0.14, 0]
    pen.limb("handlebar", head, top, tube, tube, "metal")
    wide = float(rng.uniform(0.18, 0.28))
    for s, word in SIDES:
        grip = top + [float(rng.uniform(-0.1, 0.05)), 0.03, s * wide]
        pen.limb("handlebar", top, grip, tube, tube, "dark")
        pen.keypoint(f"{word}_grip", grip, "handlebar")
        pedal = crank + np.array([s * 0.13, s * 0.08, s * 0.09])
        pen.limb("frame", crank, pedal, 0.018, 0.018, "metal")
        pen.box("foot", pedal, (0.06, 0.015, 0.045), material="dark")
        pen.keypoint(f"{word}_pedal", pedal, "foot", "frame")
    pen.frustum("rim", crank - [0, 0, 0.02], crank + [0, 0, 0.03], 0.09, 0.09, "metal")
    pen.ellipsoid("seat", seat + [0.03, 0.03, 0], (0.15, 0.04, 0.07), material="dark")
    pen.keypoint("saddle", seat + [0.03, 0.05, 0], "seat")
    pen.keypoint("head_tube", head, "frame", "handlebar")


def airplane(pen: Pen, rng: np.random.Generator) -> None:
    """A propeller or jet plane."""
    pen.figure.pose = "flying" if rng.random() < 0.6 else "parked"
    bank = normal(rng, 0, 14) if pen.figure.pose == "flying" else 0.0
    pen = pen.at((0, 0.7, 0), turn(pitch=normal(rng, 4, 6), roll=bank))
    fat, half = float(rng.uniform(0.1, 0.17)), float(rng.uniform(0.85, 1.1))
    pen.ellipsoid("body", (0, 0, 0), (half, fat, fat))
    pen.frustum("body", (-half * 0.5, 0, 0), (half * 0.6, 0, 0), fat * 0.97, fat * 0.97)
    pen.frustum("body", (-half * 1.0, fat * 0.35, 0), (-half * 0.45, 0, 0), fat * 0.25, fat * 0.95)
    pen.ellipsoid("window", (half * 0.68, fat * 0.5, 0), (0.14, fat * 0.5, fat * 0.62), material="glass")
    for k in range(7):
        for s, _ in SIDES:
            pen.ellipsoid("window", (half * (0.45 - 0.13 * k), fat * 0.3, s * fat * 0.9), 0.028, material="dark")
    pen.keypoint("nose", (half * 0.99, 0, 0), "body", "engine")
    span, sweep = float(rng.uniform(0.8, 1.1)), float(rng.uniform(-5, 35))
    low = float(rng.choice([-0.5, 0.6])) * fat
    dihedral = float(rng.uniform(-2, 9))
    jet = rng.random() < 0.65
    for s, word in SIDES:
        wing = pen.at((half * 0.1, low, s * fat * 0.4), product(turn(yaw=s * sweep), turn(roll=-s * dihedral)))
        wing.ellipsoid("wing", (0, 0, s * span * 0.48), (0.17, 0.025, span * 0.54), material="second")
        wing.box("wing", (-0.03, 0, s * span * 0.3), (0.15, 0.018, span * 0.34), material="second")
        wing.keypoint(f"{word}_wing_tip", (0, 0, s * span * 0.99), "wing")
        if jet:
            pod = np.array([0.08, -0.09, s * span * 0.38])
            wing.frustum("engine", pod + [0.14, 0, 0], pod - [0.12, 0, 0], 0.075, 0.055, "metal")
            wing.frustum("engine", pod + [0.13, 0, 0], pod + [0.145, 0, 0], 0.055, 0.055, "dark")
            wing.keypoint(f"{word}_engine", pod, "engine")
        rear = pen.at((-half * 0.9, fat * 0.35, 0), turn(yaw=s * (sweep * 0.7 + 8)))
        rear.ellipsoid("tail", (0, 0, s * span * 0.2), (0.1, 0.018, span * 0.24), material="second")
        rear.keypoint(f"{word}_tail_tip", (0, 0, s * span * 0.42), "tail")
    tall = float(rng.uniform(0.28, 0.42))
    fin = pen.at((-half * 0.9, fat * 0.4, 0), turn(pitch=float(rng.uniform(15, 40))))
    fin.ellipsoid("tail", (0, tall * 0.45, 0), (0.13, tall * 0.55, 0.02), material="third")
    fin.keypoint("fin_tip", (0, tall * 0.97, 0), "tail")
    if not jet:
        pen.ellipsoid("engine", (half, 0, 0), (0.06, 0.05, 0.05), material="metal")
        spin = float(rng.uniform(0, 180))
        pen.ellipsoid("engine", (half * 1.02, 0, 0), (0.012, 0.26, 0.03), turn(roll=spin), "dark")


def boat(pen: Pen, rng: np.random.Generator) -> None:
    """A sailing boat or a motor boat."""
    pen.figure.pose = "floating"
    pen = pen.at((0, 0.1, 0), turn(pitch=normal(rng, 0, 4), roll=normal(rng, 0, 6)))
    half, wide, deep = float(rng.uniform(0.8, 1.0)), float(rng.uniform(0.24, 0.34)), float(rng.uniform(0.2, 0.3))
    pen.box("hull", (-half * 0.2, 0.02, 0), (half * 0.72, deep * 0.6, wide))
    pen.ellipsoid("hull", (half * 0.35, deep * 0.1, 0), (half * 0.62, deep * 0.78, wide * 0.98))
    pen.ellipsoid("hull", (0, -deep * 0.3, 0), (half * 0.92, deep * 0.7, wide * 0.85), material="second")
    pen.box("hull", (-half * 0.15, deep * 0.64, 0), (half * 0.78, 0.025, wide * 1.03), material="third")
    pen.keypoint("bow", (half * 0.95, deep * 0.2, 0), "hull")
    for s, word in SIDES:
        pen.keypoint(f"stern_{word}", (-half * 0.9, deep * 0.55, s * wide * 0.95), "hull")
    if rng.random() < 0.6:
        mast = float(rng.uniform(1.1, 1.5))
        foot = np.array([half * 0.12, deep * 0.6, 0])
        pen.limb("mast", foot, foot + [0, mast, 0], 0.025, 0.015, "metal")
        pen.keypoint("mast_top", foot + [0, mast, 0], "mast", "sail")
        boom = half * float(rng.uniform(0.7, 0.95))
        swing = turn(yaw=normal(rng, 0, 18))
        main = pen.at(foot + [0, 0.12, 0], swing)
        for k in range(14):
            share = (k + 0.5) / 14
            length = boom * (1 - share)
            main.box("sail", (-length / 2 - 0.02, share * mast * 0.86, 0),
                     (length / 2, mast * 0.0315, 0.012), turn(pitch=0), "white")  # fmt: skip
        main.limb("mast", (0, 0, 0), (-boom, 0, 0), 0.02, 0.015, "metal")
        main.keypoint("sail_corner", (-boom * 0.93, 0.06, 0), "sail", "mast")
        jib = pen.at(foot + [0.03, 0.08, 0], swing.T)
        reach = half * 0.6
        for k in range(12):
            share = (k + 0.5) / 12
            length = reach * (1 - share)
            jib.box("sail", (length / 2, share * mast * 0.66, 0), (length / 2, mast * 0.0285, 0.012), material="second")
        jib.keypoint("jib_corner", (reach * 0.9, 0.03, 0), "sail")
    else:
        high = float(rng.uniform(0.16, 0.26))
        pen.box("body", (-half * 0.2, deep * 0.66 + high, 0), (half * 0.35, high, wide * 0.7), material="white")
        pen.box(
            "window",
            (-half * 0.2, deep * 0.66 + high * 1.3, 0),
            (half * 0.36, high * 0.3, wide * 0.71),
            material="glass",
        )
        pen.box("roof", (-half * 0.2, deep * 0.66 + high * 2, 0), (half * 0.4, 0.03, wide * 0.78), material="third")
        for s, word in SIDES:
            pen.keypoint(f"{word}_roof_front", (half * 0.19, deep * 0.66 + high * 2, s * wide * 0.74), "roof")
        pen.frustum(
            "chimney", (-half * 0.35, deep + high * 2, 0), (-half * 0.35, deep + high * 2.8, 0), 0.07, 0.07, "third"
        )
        pen.keypoint("chimney_top", (-half * 0.35, deep + high * 2.78, 0), "chimney")
