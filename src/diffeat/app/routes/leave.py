"""What one leaves with: the Python lines and the command that make a view, and its recipe."""

from __future__ import annotations

import shlex

from fastapi import APIRouter

from diffeat.app.asked import Asked, Body, Id, Ids, Number
from diffeat.app.gallery import Entry, Sample
from diffeat.app.here import Here
from diffeat.extraction import Recipe

router = APIRouter()


class View(Body):
    """What is looked at.

    Attributes:
        pictures: That are shown; a point is sought in them.
    """

    asked: Asked = Asked()
    pictures: Ids
    source: Id | None = None
    point: tuple[Number, Number] | None = None


@router.post("/leave")
async def leave(session: Here, body: View) -> dict[str, str]:
    """Python, command and YAML of a view."""
    recipe = body.asked.of(session.offered)
    entries = [session.gallery[id] for id in body.pictures]
    source = session.gallery[body.source] if body.source is not None else entries[0]
    return {
        "yaml": recipe.to_yaml(),
        "python": _python(recipe, source, entries, body.point),
        "command": _command(source, entries, body.point),
    }


def _python(recipe: Recipe, source: Entry, entries: list[Entry], point: tuple[float, float] | None) -> str:
    """Lines that can be run where the server was started."""
    lines = opening(recipe, [source, *(entry for entry in entries if entry != source)])
    if point is not None:
        lines += [
            "for features in [first, *others]:",
            f"    found = diffeat.match(first, features, [[{point[0]:g}, {point[1]:g}]])",
            "    print(features.image, found.target[0].tolist(), found.similarity[0].item())",
        ]
    else:
        lines += [
            "from diffeat.viz import pca_colours",
            "",
            "pictures = pca_colours([features.tensor for features in [first, *others]], shared=True)",
        ]
    return "\n".join(lines) + "\n"


def opening(recipe: Recipe, entries: list[Entry]) -> list[str]:
    """The lines that read pictures: ``first`` and ``others``."""
    lines = ["import diffeat", ""] + (_SAMPLES_PYTHON if any(map(_sample, entries)) else [])
    lines += [f'recipe = diffeat.Recipe.from_yaml("""\n{recipe.to_yaml()}""")']
    paths = [path_of(entry) for entry in entries]
    return [*lines, "source = diffeat.load_source(recipe)", f"first, *others = source.extract({paths!r})"]


def samples_first(entries: list[Entry]) -> str:
    """The command line that writes sample photographs, where one of them is shown."""
    return "diffeat samples photos\n" if any(map(_sample, entries)) else ""


def _command(source: Entry, entries: list[Entry], point: tuple[float, float] | None) -> str:
    """Command lines; ``recipe.yaml`` is the recipe."""
    first = samples_first([source, *entries])
    if point is None:
        paths = shlex.join([path_of(entry) for entry in entries])
        return f"{first}diffeat show {paths} --recipe recipe.yaml --shared --out features.png\n"
    others = [entry for entry in entries if entry != source] or [source]
    return first + "".join(
        f"diffeat match {shlex.join([path_of(source), path_of(entry)])} --recipe recipe.yaml "
        f"--points {shlex.quote(f'{point[0]:g},{point[1]:g}')} --out match-{i}.png\n"
        for i, entry in enumerate(others, 1)
    )


_SAMPLES_PYTHON = [
    "from pathlib import Path",
    "",
    "from diffeat.datasets import write_samples",
    "",
    'write_samples(Path("photos"), force=True)',
]


def path_of(entry: Entry) -> str:
    """Where people find it; a dropped picture by its name."""
    return entry.path or entry.name


def _sample(entry: Entry) -> bool:
    return isinstance(entry.where, Sample)
