"""What one leaves with: the Python lines and the command that make a view, and its recipe."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from diffeat.app.asked import Asked, Body, Box, Id, Ids, Label, Name, Number, Point
from diffeat.app.gallery import Sample
from diffeat.app.here import Here
from diffeat.app.routes.segments import Word
from diffeat.errors import InvalidValueError

router = APIRouter()

#: Reads a recipe; ``{recipe}`` and ``{paths}`` are filled in.
_BEGIN = 'recipe = diffeat.Recipe.from_yaml("""\n{recipe}""")\nsource = diffeat.load_source(recipe)'


class View(Body):
    """What is looked at.

    Attributes:
        of: What is made of the pictures.
        map: Where features hold several.
        source: The picture that the point lies in; it is sought in all of them.
    """

    asked: Asked = Asked()
    of: Literal["similarity", "pca", "strip", "words", "parts", "transfer"] = "pca"
    pictures: Ids
    map: Name | None = None
    source: Id | None = None
    point: tuple[Number, Number] | None = None
    words: list[Word] = Field(default_factory=list, max_length=12)
    background: float = Field(default=0.5, ge=0, le=1)
    method: Literal["cuts", "kmeans", "merging"] = "kmeans"
    parts: int | None = Field(default=None, ge=1, le=24)
    points: dict[Label, Point] = Field(default_factory=dict, max_length=200)
    boxes: dict[Label, Box] = Field(default_factory=dict, max_length=50)


@router.post("/leave")
async def leave(session: Here, body: View) -> dict[str, str]:
    """Python, command and YAML of a view; the command reads the YAML as ``recipe.yaml``."""
    recipe = body.asked.of(session.offered)
    entries = [session.gallery[id] for id in body.pictures]
    if body.source is not None:  # first
        source = session.gallery[body.source]
        entries = [source, *(entry for entry in entries if entry != source)]
    told = _MAKERS[body.of](body, [entry.path or entry.name for entry in entries])
    samples = any(isinstance(entry.where, Sample) for entry in entries)
    begin = _BEGIN.replace("{recipe}", recipe.to_yaml().replace("\\", "\\\\").replace('"""', r"\"\"\""))
    python = [*told.imports, "import diffeat", "", *(_SAMPLES if samples else []), begin, *told.python]
    return {
        "yaml": recipe.to_yaml(),
        "python": "\n".join(_ordered(python)) + "\n",
        "command": "".join(f"{line}\n" for line in [*(["diffeat samples photos"] if samples else []), *told.commands]),
    }


@dataclass(frozen=True)
class Told:
    """Lines after those that load the recipe, what they import, and command lines."""

    python: list[str]
    commands: list[str]
    imports: tuple[str, ...] = ()


def _similarity(view: View, paths: list[str]) -> Told:
    if view.point is None:
        raise InvalidValueError("Similarity is that to a point: click on a picture first.")
    x, y = (f"{value:.6g}" for value in view.point)
    which = "" if view.map is None else f", activation={view.map!r}"
    python = [
        f"maps = source.extract({paths!r})",
        "for features in maps:",
        f"    found = diffeat.match(maps[0], features, [[{x}, {y}]]{which})",
        "    print(features.image, found.target[0].tolist(), found.similarity[0].item())",
    ]
    return Told(
        python,
        [
            f"diffeat match {shlex.join([paths[0], path])} --recipe recipe.yaml --points {x},{y} --out match-{i}.png"
            for i, path in enumerate(paths[1:] or paths, 1)
        ],
    )


def _pca(view: View, paths: list[str]) -> Told:
    tensor = "features.tensor" if view.map is None else f"features[{view.map!r}]"
    python = [
        f"maps = source.extract({paths!r})",
        f"pictures = pca_colours([{tensor} for features in maps], shared=True)",
    ]
    command = f"diffeat show {shlex.join(paths)} --recipe recipe.yaml --shared --out features.png"
    return Told(python, [command], ("from diffeat.viz import pca_colours",))


def _strip(view: View, paths: list[str]) -> Told:
    read = f"maps = source.extract({paths!r})"
    command = f"diffeat show {shlex.join(paths)} --recipe recipe.yaml --out strip.png"
    if view.point is None:
        python = [
            read,
            "pictures = {name: pca_colours([features])[0] for name, features in maps[0].activations.items()}",
        ]
        return Told(python, [command], ("from diffeat.viz import pca_colours",))
    x, y = (f"{value:.6g}" for value in view.point)
    python = [
        read,
        "for name in maps[0].activations:",
        f"    found = diffeat.match(maps[0], maps[-1], [[{x}, {y}]], activation=name)",
        "    print(name, found.target[0].tolist(), found.similarity[0].item())",
    ]
    return Told(python, [command])


def _words(view: View, paths: list[str]) -> Told:
    if not view.words:
        raise InvalidValueError("Type words first.")
    prompt = "prompt=recipe.prompt, " if view.asked.prompt else ""
    python = [
        f"options = WordOptions({prompt}background={view.background:g})",
        f"for path in {paths!r}:",
        "    picture = diffeat.Picture.of(path)",
        f"    maps = diffeat.words(picture, {view.words!r}, source, options)",
        "    labels = maps.labels(picture.image)",
    ]
    words = " ".join(f"--words {shlex.quote(word)}" for word in view.words)
    prompt = f" --prompt {shlex.quote(view.asked.prompt)}" if view.asked.prompt else ""
    command = (
        f"diffeat segment {shlex.join(paths)} --recipe recipe.yaml {words}{prompt} --background {view.background:g}"
    )
    return Told(python, [f"{command} --out words"], ("from diffeat.tasks.words import WordOptions",))


def _parts(view: View, paths: list[str]) -> Told:
    command = f"diffeat segment {shlex.join(paths)} --recipe recipe.yaml --method {view.method}"
    if view.method == "merging":
        python = [f"maps = [attention_parts(source, diffeat.Picture.of(path)) for path in {paths!r}]"]
        return Told(python, [f"{command} --out parts"], ("from diffeat.tasks.parts import attention_parts",))
    parts = "" if view.parts is None else f", parts={view.parts}"
    python = [
        f"maps = parts_of(source.extract({paths!r}), PartOptions({view.method!r}{parts}), together=True)",
        "labels = [each.labels(diffeat.Picture.of(each.image).image) for each in maps]",
    ]
    number = "" if view.parts is None else f" --parts {view.parts}"
    return Told(
        python,
        [f"{command}{number} --together --out parts"],
        ("from diffeat.tasks.parts import PartOptions, parts_of",),
    )


def _transfer(view: View, paths: list[str]) -> Told:
    if not view.points and not view.boxes:
        raise InvalidValueError("Mark a point or a box first; a painted mask is saved with the set.")
    which = (
        "features" if view.map is None else f"replace(features, activations={{{view.map!r}: features[{view.map!r}]}})"
    )
    python = [
        f"maps = [{which} for features in source.extract({paths!r})]",
        f"marks = Annotation(points={view.points!r}, boxes={view.boxes!r})",
        "found = transfer(maps[0], maps[1], marks)",
        "print(found.points, found.boxes)",
    ]
    marks = {"points": view.points, "boxes": view.boxes}
    arguments = shlex.join([paths[0], "marks.json", *paths[1:]])
    commands = [f"echo {shlex.quote(json.dumps(marks))} > marks.json"]
    commands += [f"diffeat transfer {arguments} --recipe recipe.yaml --out found"]
    imports = ["from diffeat.tasks.transfer import Annotation, transfer"]
    return Told(python, commands, (*imports, *(["from dataclasses import replace"] if view.map is not None else [])))


_MAKERS: dict[str, Callable[[View, list[str]], Told]] = {
    "similarity": _similarity,
    "pca": _pca,
    "strip": _strip,
    "words": _words,
    "parts": _parts,
    "transfer": _transfer,
}
_SAMPLES = [
    "from pathlib import Path",
    "from diffeat.datasets import write_samples",
    'write_samples(Path("photos"), force=True)',
]


def _ordered(lines: list[str]) -> list[str]:
    """Imports first, as people write them."""
    imports = sorted(
        {line for line in lines if line.startswith(("from ", "import "))}, key=lambda line: line.split()[1]
    )
    others = [line for line in lines if line and not line.startswith(("from ", "import "))]
    standard = [line for line in imports if "diffeat" not in line]
    return [*standard, *([""] if standard else []), *(line for line in imports if line not in standard), "", *others]
