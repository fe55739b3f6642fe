"""Captions from a small grammar, and the words it can produce (the embedded tokenizer holds each as one token)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from diffeat.datasets.toyworld.classes import CLASSES
from diffeat.datasets.toyworld.materials import PATTERNS
from diffeat.datasets.toyworld.palette import COLOURS

PHRASES = {
    "grass": "on grass", "sand": "on sand", "snow": "on snow", "road": "on a road", "water": "on water",
    "floor": "on a floor", "wall": "in front of a wall", "forest": "in a forest",
    "clutter": "in front of clutter", "studio": "on a plain background",
}  # fmt: skip
VIEWS = {
    "left": "facing left", "right": "facing right", "front": "facing the camera", "back": "seen from behind",
}  # fmt: skip
LIGHTS = {"sunny": "in the sun", "soft": "", "dark": "in the dark"}


def caption(attributes: Mapping[str, str], rng: np.random.Generator) -> str:
    """A sentence for a sample's attributes; single phrases are left out at random, as people do."""

    def keep(share: float) -> bool:
        return bool(rng.random() < share)

    noun = [attributes["name"]]
    if attributes["name"] != "person" and attributes["colour"] and keep(0.85):
        noun.insert(0, attributes["colour"])
    if attributes["pattern"] != "plain" and keep(0.8):
        noun.insert(0, attributes["pattern"])
    if attributes["size"] != "medium" and keep(0.5):
        noun.insert(0, attributes["size"])
    article = "an" if noun[0][0] in "aeiou" else "a"
    words = [f"{article} {' '.join(noun)}"]
    if attributes["framing"] == "close" and keep(0.9):
        words.insert(0, "a close up of")
    elif keep(0.7):
        words.insert(0, "a photo of")
    if attributes["name"] == "person" and keep(0.7):
        words.append(f"in {attributes['colour']}")
    if attributes["pose"] not in ("standing", "parked") and keep(0.7):
        words.append(attributes["pose"])
    if keep(0.85):
        words.append(VIEWS[attributes["view"]])
    if keep(0.9):
        words.append(PHRASES[attributes["place"]])
    if keep(0.6):
        words.append(LIGHTS[attributes["light"]])
    return " ".join(word for word in words if word)


def vocabulary() -> tuple[str, ...]:
    """Every word a caption can contain, sorted."""
    poses = "standing walking grazing sitting flying swimming waving parked floating lying"
    text = " ".join(
        ["a an photo of close up small large", poses, *PHRASES.values(), *VIEWS.values(), *LIGHTS.values(),
         *PATTERNS, *COLOURS, *CLASSES]
    )  # fmt: skip
    return tuple(sorted(set(text.split())))
