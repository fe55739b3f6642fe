"""The classes of the toy world, and how a figure of each is built."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from diffeat.datasets.toyworld.creatures import beetle, bird, fish, person, spider
from diffeat.datasets.toyworld.figure import Figure, Pen
from diffeat.datasets.toyworld.quadrupeds import SPECIES, quadruped
from diffeat.datasets.toyworld.things import bottle, chair, cup, flower, house, tree
from diffeat.datasets.toyworld.vehicles import airplane, bicycle, boat, car

#: class name -> what draws a figure of it
BUILDERS: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    **{name: partial(quadruped, name) for name in SPECIES},
    "bird": bird, "fish": fish, "beetle": beetle, "spider": spider, "person": person,
    "car": car, "bicycle": bicycle, "airplane": airplane, "boat": boat,
    "chair": chair, "house": house, "tree": tree, "flower": flower, "bottle": bottle, "cup": cup,
}  # fmt: skip
CLASSES = tuple(BUILDERS)
FURRY = (*SPECIES, "bird", "spider")
#: classes with a face or a blossom worth a close-up
PORTRAITS = (*SPECIES, "bird", "person", "fish", "flower")


def build(name: str, rng: np.random.Generator) -> Figure:
    """A figure of a class, in a drawn pose."""
    figure = Figure()
    BUILDERS[name](figure.pen(), rng)
    return figure
