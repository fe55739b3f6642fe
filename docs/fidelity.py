"""Writes ``docs/fidelity.md``: every number of every preset beside the one that its authors published.

python docs/fidelity.py

``docs/fidelity.yaml`` holds what was published, and where; what is ours is read from the recipes. A number of ours that
is not the original's is named in the recipe's own file, in a comment: ``# ours: timestep, draws``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import diffeat
from diffeat.backbones.card import cards
from diffeat.extraction import Joined, Reading, Recipe
from diffeat.extraction.reading import Fuse, Trajectory, ViewSpec
from diffeat.geometry import FrameSpec
from diffeat.tasks.correspondence import get_protocol

HERE = Path(__file__).parent
PRESETS = {path.stem: path for path in sorted((Path(diffeat.__file__).parent / "recipes").glob("*.yaml"))}
#: Each number of a preset, and what it is.
NUMBERS = {
    "model": "the pipeline, and other weights of its denoiser",
    "timestep": "noise level that the denoiser is told, or calls of a walk that are read",
    "draws": "independent noises whose maps are averaged",
    "latent": "what is taken from the autoencoder's posterior",
    "size": "of the model's image",
    "filter": "of resizing",
    "prompt": "text; a caller's word goes where {} stands",
    "activations": "what is read, in the order of the denoiser",
    "views": "readings that are mixed, where there are several",
    "refine": "massive channels",
    "fuse": "how maps become one",
    "grid": "that they are brought to",
    "scales": "guidance, strengths of techniques, weights",
    "protocol": "how results are scored",
}
NONE = "none"


@dataclass(frozen=True)
class Fact:
    """One number of one preset: published (``None``: not), ours, why they differ, and where it is published."""

    original: str | None
    ours: str
    why: str = ""
    source: str = ""
    equal: bool = False

    @property
    def state(self) -> str:
        return "equal" if self.equal else "differs" if self.original is not None else "ours"


def _trajectory(t: Trajectory) -> dict[str, str]:
    kinds = {"noise": "{}", "clean": "clean latent, told {}"}
    steps = ", ".join(f"{s:g}" for s in t.read_steps)
    walk = f"calls {steps} of {t.steps} of the {t.kind}"
    return {
        "timestep": walk if t.stepped else kinds[t.kind].format(steps),
        "draws": NONE if t.stepped else str(t.draws),
        "latent": NONE if t.kind == "generation" else {"mean": "its mean", "sample": "a sample"}[t.latent],
    }


def _frame(frame: FrameSpec) -> dict[str, str]:
    def sides(size: Any) -> str:
        return "the model's own" if size is None else f"{size[0]}×{size[1]}"

    asked = f"longer side {frame.longer}" if frame.longer else f"shorter side {frame.shorter}"
    size = f"{asked}, sides to multiples of {frame.multiple}" if frame.multiple > 1 else asked
    if frame.mode != "keep":
        load = f"{sides(frame.load)}, then " if frame.load else ""
        size = f"{load}{sides(frame.size)}, {frame.mode}ed".replace("squashed", "aspect lost").replace("paded", "padded")
    return {"size": size, "filter": frame.filter}


def _text(recipe: Recipe | ViewSpec) -> str:
    texts = [getattr(recipe, "template", "{}"), recipe.prompt]
    return "; ".join(f"“{text}”" for text in texts if text and text != "{}") or "empty"


def _activations(recipe: Reading | ViewSpec) -> str:
    return ", ".join(str(a).removeprefix("gdf:") for a in recipe.activations or ())


def _view(view: ViewSpec) -> str:
    techniques = [t.label for t in view.techniques or ()]
    said = {"t": view.timesteps and f"{view.timesteps[0]:g}", "seed": view.seed, "reads": _activations(view) or None}
    parts = [_text(view)] if view.prompt is not None else []
    parts += [*techniques, *(f"{name} {value}" for name, value in said.items() if value is not None)]
    return f"{view.name}: {', '.join(parts) or 'as the recipe'}" + (" (appended)" if view.append else "")


def _scales(recipe: Reading) -> str:
    views = [t for view in recipe.views or () for t in view.techniques or ()]
    scales = [f"{t.kind} {t.scale:g}" for t in (*(recipe.techniques or ()), *views) if hasattr(t, "scale")]
    scales += [f"{name.replace('_', ' ')} {value}" for name, value in recipe.conditioning.items()]
    if recipe.trajectory.guidance is not None:
        scales.append(f"guidance {recipe.trajectory.guidance:g}, against “{recipe.trajectory.negative_prompt or ''}”")
    return ", ".join(dict.fromkeys(scales)) or NONE


def _fuse(fuse: Fuse | None) -> dict[str, str]:
    if fuse is None:
        return {"fuse": NONE, "grid": NONE}
    weights = f", weights {fuse.weights.file or fuse.weights.source}" if fuse.weights else ""
    grid = "the largest map's" if fuse.grid is None else f"{fuse.grid[0]}×{fuse.grid[1]}"
    return {"fuse": f"{fuse.kind}{', unit length each' if fuse.normalise else ''}{weights}", "grid": grid}


def ours(recipe: Recipe) -> dict[str, str]:
    """The numbers of a recipe in words, all but its protocol."""
    if isinstance(recipe, Joined):
        parts = [ours(part) for part in recipe.parts]
        joined = {name: " + ".join(dict.fromkeys(part[name] for part in parts)) for name in parts[0]}
        return {**joined, "prompt": _text(recipe), "fuse": recipe.join, "grid": "the largest map's"}
    assert isinstance(recipe, Reading)
    denoiser = recipe.denoiser and (recipe.denoiser.file or recipe.denoiser.source)
    return {
        "model": f"{recipe.model}, denoiser {denoiser}" if denoiser else recipe.model,
        **_trajectory(recipe.trajectory),
        **_frame(recipe.frame),
        "prompt": _text(recipe),
        "activations": _activations(recipe),
        "views": "<br>".join(map(_view, recipe.views or ())) or NONE,
        "refine": f"{recipe.refine.discard}, channels {recipe.refine.channels}" if recipe.refine else NONE,
        **_fuse(recipe.fuse),
        "scales": _scales(recipe),
    }


@cache
def published() -> dict[str, Any]:
    return yaml.safe_load((HERE / "fidelity.yaml").read_text(encoding="utf-8"))


def facts(preset: str) -> dict[str, Fact]:
    """Every number of a preset. Facts of a preset stand before those of its group, and these before its system's."""
    system, group = next((s, g) for s in published()["systems"] for g in s["groups"] if preset in g["presets"])
    said = {**system.get("facts", {}), **group.get("facts", {}), **(group["presets"][preset] or {})}
    recipe = Recipe.load(preset)
    mine = ours(recipe) | {"protocol": _protocol(said.get("protocol", {}).get("ours"))}
    if isinstance(recipe, Joined):
        parts = [facts(part.name) for part in recipe.parts]
        said = {number: _of_parts([part[number] for part in parts]) for number in NUMBERS} | said
    return {number: _fact(said.get(number), mine[number]) for number in NUMBERS}


def _protocol(name: str | None) -> str:
    if name is None:
        return NONE
    protocol = get_protocol(name)
    return f"{str(protocol).split(': ', 1)[1]}; α {protocol.alpha:g}"


def _of_parts(parts: list[Fact]) -> dict[str, Any] | None:
    """What is published about a joined recipe, where only its parts say it."""
    texts = [part.original for part in parts]
    if None in texts:
        return None
    mine = " + ".join(dict.fromkeys(part.ours for part in parts))
    return {"is": " + ".join(dict.fromkeys(filter(None, texts))), "why": " ".join(dict.fromkeys(p.why for p in parts)),
            "from": "; ".join(dict.fromkeys(p.source for p in parts)), "as": mine if all(p.equal for p in parts) else None}


def _fact(said: dict[str, Any] | None, value: str) -> Fact:
    if said is None:  # nothing was published, because there is nothing like it
        return Fact(None, value, equal=value == NONE)
    original = None if (text := said.get("is")) is None else "<br>".join(text) if isinstance(text, list) else str(text)
    equal = original is not None and (value in (original, said.get("as")) or _same_model(original, value))
    return Fact(original, value, said.get("why", ""), said.get("from", ""), equal)


def _same_model(original: str, value: str) -> bool:
    """Whether one is a hub id of the model that the other names; what follows a comma is the denoiser."""
    (hub_id, _, theirs), (name, _, mine) = original.partition(","), value.partition(",")
    return theirs == mine and name in cards() and hub_id in cards()[name].ids


def marked(preset: str) -> set[str]:
    """The numbers that the recipe's own file names as ours."""
    marks = re.findall(r"# ours: ([a-z, ]+)", PRESETS[preset].read_text(encoding="utf-8"))
    names = {name.strip() for mark in marks for name in mark.split(",")}
    return {n for n, fact in facts(preset).items() if not fact.equal} if names == {"all"} else names


def _source(text: str) -> str:
    """``key place`` as a link; several are parted by ``;``."""

    def link(part: str) -> str:
        key, _, place = part.strip().partition(" ")
        title, url = published()["sources"][key]["title"], published()["sources"][key]["url"]
        file = re.match(r"[\w./-]+\.\w+", place)
        return f"[{title}{f', {place}' if place else ''}]({url}{'/' + file.group() if file and 'blob' in url else ''})"

    return "; ".join(map(link, text.split(";"))) if text else ""


def _cell(text: str | None) -> str:
    return "*not published*" if text is None else re.sub(r"\s+", " ", text.strip().replace("|", "\\|"))


def _rows(presets: dict[str, dict[str, Fact]]) -> Iterator[str]:
    """A line for every number and every set of presets that share it."""
    for number in NUMBERS:
        shared: dict[Fact, list[str]] = {}
        for name, numbers in presets.items():
            shared.setdefault(numbers[number], []).append(name)
        for fact, names in shared.items():
            if fact.original in (None, NONE) and fact.ours == NONE:
                continue
            who = "" if len(shared) == 1 else f"<br>{', '.join(f'`{name}`' for name in names)}"
            mine = "same" if fact.equal else f"**{_cell(fact.ours)}**"
            why = " ".join(filter(None, (_cell(fact.why), _source(fact.source))))
            yield f"| {number}{who} | {_cell(fact.original)} | {mine} | {why} |"


def page() -> str:
    """The whole page as Markdown."""
    every = {name: facts(name) for name in PRESETS}
    counts = {name: Counter(f.state for f in numbers.values() if f.ours != NONE or f.original not in (None, NONE))
              for name, numbers in every.items()}
    total = sum(counts.values(), Counter())
    lines = [
        published()["head"].format(presets=len(every), numbers=total.total(), **total),
        "| number | what it is |\n|---|---|",
        *(f"| {name} | {what} |" for name, what in NUMBERS.items()),
        "\n| preset | equal | differs | ours |\n|---|--:|--:|--:|",
        *(f"| [`{name}`](#{_anchor(name)}) | {c['equal']} | {c['differs']} | {c['ours']} |" for name, c in counts.items()),
    ]
    for system in published()["systems"]:
        lines += [f"\n## {system['title']}\n", system["about"].strip()]
        for group in system["groups"]:
            presets = {name: every[name] for name in group["presets"]}
            lines += [f"\n### {_title(group)}\n", " ".join(f"`{name}`" for name in presets), ""]
            lines += ["| number | original | ours | why, source |\n|---|---|---|---|", *_rows(presets)]
    return "\n".join(lines) + "\n"


def _title(group: dict[str, Any]) -> str:
    return group.get("title") or ", ".join(group["presets"])


def _anchor(preset: str) -> str:
    group = next(g for s in published()["systems"] for g in s["groups"] if preset in g["presets"])
    return re.sub(r"[^\w -]", "", _title(group).lower()).replace(" ", "-")


if __name__ == "__main__":
    (HERE / "fidelity.md").write_text(page(), encoding="utf-8")
    print(HERE / "fidelity.md")
