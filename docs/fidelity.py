"""Writes ``docs/fidelity.md``: every number of every preset beside the one that its authors published.

python docs/fidelity.py

``docs/fidelity.yaml`` holds what was published, and where; what is ours is read from the recipes. A number of ours that
is not the original's is named in the recipe's own file, in a comment: ``# ours: timestep, draws``. A preset on a data
set (``gdf-sd15-spair``) is the one that it is made of, with the data set's facts and the marks of its section.
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
from diffeat.extraction import Joined, Reading, Recipe, preset_names
from diffeat.extraction.reading import Fuse, Refine, Trajectory, ViewSpec, Weights
from diffeat.geometry import FrameSpec
from diffeat.tasks.correspondence import PROTOCOLS
from diffeat.tasks.dense import DenseOptions
from diffeat.tasks.registry import TASKS, options_for

HERE = Path(__file__).parent
RECIPES = Path(diffeat.__file__).parent / "recipes"
#: Each number of a preset, and what it is.
NUMBERS = {
    "model": "the pipeline, and other weights of its denoiser",
    "precision": "in which the original computes; ours is told by `--dtype`",
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
    "protocol": "how results are scored: what the recipe suggests to a task, or else what is named",
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

    @property
    def absent(self) -> bool:
        """Neither has anything of the kind."""
        return self.original in (None, NONE) and self.ours == NONE


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
    size = f"{asked}, sides to multiples of {frame.multiple} ({frame.round})" if frame.multiple > 1 else asked
    if frame.mode != "keep":
        load = f"{sides(frame.load)}, then " if frame.load else ""
        how = {"squash": "aspect lost", "pad": f"padded with {frame.fill}"}[frame.mode]
        size = f"{load}{sides(frame.size)}, {how}"
    return {"size": size, "filter": f"{frame.filter}, then bilinear" if frame.load else frame.filter}


def _text(recipe: Recipe | ViewSpec) -> str:
    texts = [getattr(recipe, "template", "{}"), recipe.prompt]
    return "; ".join(f"“{text}”" for text in texts if text and text != "{}") or "empty"


def _activations(recipe: Reading | ViewSpec) -> str:
    return ", ".join(str(a).removeprefix("gdf:") for a in recipe.activations or ())


def _labels(recipe: Reading | ViewSpec) -> list[str]:
    """Its techniques, without their strengths."""
    return [re.sub(" ×[0-9.]+$", "", technique.label) for technique in recipe.techniques or ()]


def _view(view: ViewSpec) -> str:
    words = [_text(view)] if view.prompt is not None else []
    words += [f"model {view.model}"] if view.model else []
    words += [_weights(view.denoiser)[2:]] if view.denoiser else []
    words += _labels(view)
    words += [f"t {view.timesteps[0]:g}"] if view.timesteps else []
    words += [f"seed {view.seed}"] if view.seed is not None else []
    words += [f"reads {_activations(view)}"] if view.activations else []
    return (", ".join(words) or "as it is") + (" (appended)" if view.append else "")


def _scales(recipe: Reading) -> str:
    techniques = [t for each in (recipe, *(recipe.views or ())) for t in each.techniques or ()]
    scales = [f"{t.kind} {scale:g}" for t in techniques if (scale := getattr(t, "scale", None)) is not None]
    scales += [f"{name.replace('_', ' ')} {value}" for name, value in recipe.conditioning.items()]
    scales += [f"shrink {recipe.shrink}"] if recipe.shrink else []
    scales += [f"low-pass {recipe.low_pass}"] if recipe.low_pass else []
    if recipe.trajectory.guidance is not None:
        scales.append(f"guidance {recipe.trajectory.guidance:g}, against “{recipe.trajectory.negative_prompt or ''}”")
    return ", ".join(dict.fromkeys(scales)) or NONE


def _refine(refine: Refine) -> str:
    detected = f" at {refine.ratio:g} times the median" if refine.channels == "detected" else ""
    return f"discard {refine.discard}, channels {refine.channels}{detected}"


def _weights(weights: Weights | None) -> str:
    """By their name: those that lie beside a recipe's file are told with their folder."""
    if weights is None:
        return ""
    path = Path(weights.file or weights.source)
    return f", weights {path.name if path.is_absolute() else path.as_posix()}"


def _fuse(fuse: Fuse | None) -> dict[str, str]:
    if fuse is None:
        return {"fuse": NONE, "grid": NONE}
    grid = "the largest map's" if fuse.grid is None else f"{fuse.grid[0]}×{fuse.grid[1]}"
    how = f", {fuse.resize}" if fuse.kind in ("concat", "mean") else ""
    return {
        "fuse": f"{fuse.kind}{how}{', unit length each' if fuse.normalise else ''}{_weights(fuse.weights)}",
        "grid": grid,
    }


def ours(recipe: Recipe) -> dict[str, str]:
    """The numbers of a recipe in words, all but its protocol."""
    if isinstance(recipe, Joined):
        parts = [ours(part) for part in recipe.parts]
        joined = {name: " + ".join(dict.fromkeys(part[name] for part in parts)) for name in parts[0]}
        fuse = f"{joined['fuse']}, then {recipe.join}{_weights(recipe.network)}"
        shares = {"scales": " : ".join(f"{w:g}" for w in recipe.shares)} if recipe.join == "weighted" else {}
        return joined | {"prompt": _text(recipe), "fuse": fuse} | shares
    assert isinstance(recipe, Reading)
    return {
        "model": recipe.model + _weights(recipe.denoiser),
        "precision": recipe.precision or NONE,
        **_trajectory(recipe.trajectory),
        **_frame(recipe.frame),
        "prompt": _text(recipe),
        "activations": _activations(recipe),
        "views": "<br>".join(map(_view, recipe.views or ())) or ", ".join(_labels(recipe)) or NONE,
        "refine": _refine(recipe.refine) if recipe.refine else NONE,
        **_fuse(recipe.fuse),
        "scales": _scales(recipe),
    }


@cache
def published() -> dict[str, Any]:
    return yaml.safe_load((HERE / "fidelity.yaml").read_text(encoding="utf-8"))


def parts_of(preset: str) -> tuple[str, str]:
    """The preset that has a file, and the data set that is added to it, or nothing."""
    if (RECIPES / f"{preset}.yaml").exists():
        return preset, ""
    base, _, dataset = preset.rpartition("-")
    return base, dataset


def _place(preset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The system and the group that it stands in; a data set of the system is a group too."""
    base, dataset = parts_of(preset)
    system, group = next((s, g) for s in published()["systems"] for g in s["groups"] if base in g["presets"])
    return system, system["datasets"][dataset] if dataset else group


def facts(preset: str) -> dict[str, Fact]:
    """Every number of a preset. Facts of a preset stand before those of its group, and these before its system's."""
    base, dataset = parts_of(preset)
    system, group = _place(base)
    said = {**system.get("facts", {}), **group.get("facts", {}), **(group["presets"][base] or {})}
    recipe = Recipe.load(preset)
    if isinstance(recipe, Joined):
        parts = [facts(part.name) for part in recipe.parts]
        said = {number: _of_parts([part[number] for part in parts]) for number in NUMBERS} | said
    if dataset:
        said |= system["datasets"][dataset]["facts"] | system["datasets"][dataset].get("presets", {}).get(preset, {})
    mine = ours(recipe) | {"protocol": _protocol(recipe, (said.get("protocol") or {}).get("ours"))}
    return {number: _fact(said.get(number), mine[number]) for number in NUMBERS}


def _protocol(recipe: Recipe, name: str | None) -> str:
    """What the recipe says about a task, or else what the task or the protocol of correspondence of that name does."""
    task = next(iter(recipe.tasks), name)
    if task == "dense":
        dense = DenseOptions(**recipe.tasks[task])
        return f"{dense.head} head, {dense.block} blocks, crops {dense.crop}, {dense.steps} steps of {dense.batch}"
    options = dict(options_for(TASKS[task], recipe)) if task in TASKS else {}
    name = options["protocol"] if task == "correspondence" else name
    if name in PROTOCOLS:
        return f"{str(PROTOCOLS[name]).split(': ', 1)[1]}; α {PROTOCOLS[name].alpha:g}"
    told = {key: " ".join(map(str, v)) if isinstance(v, tuple) else v for key, v in options.items() if v}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in told.items()) or NONE


def _of_parts(parts: list[Fact]) -> dict[str, Any] | None:
    """What is published about a joined recipe, where only its parts say it."""
    texts = [part.original for part in parts]
    if None in texts:
        return None
    mine = " + ".join(dict.fromkeys(part.ours for part in parts))
    said = {"is": " + ".join(dict.fromkeys(filter(None, texts))), "as": mine if all(p.equal for p in parts) else None}
    places = dict.fromkeys(place for part in parts for place in part.source.split("; "))
    return {**said, "why": " ".join(dict.fromkeys(part.why for part in parts)), "from": "; ".join(places)}


def _fact(said: dict[str, Any] | None, value: str) -> Fact:
    if said is None:  # nothing was published, because there is nothing like it
        return Fact(None, value, equal=value == NONE)
    original, alike = (None if (text := said.get(key)) is None else _lines(text) for key in ("is", "as"))
    equal = value in (original or NONE, alike) or (original is not None and _same_model(original, value))
    return Fact(original, value, said.get("why", ""), said.get("from", ""), equal)


def _lines(value: Any) -> str:
    return "<br>".join(value) if isinstance(value, list) else str(value)


def _same_model(original: str, value: str) -> bool:
    """Whether one is a hub id of the model that the other names; what follows a comma are other weights."""
    (hub_id, _, theirs), (name, _, mine) = original.partition(","), value.partition(",")
    return theirs == mine and name in cards() and hub_id in cards()[name].ids


def invented(preset: str) -> set[str]:
    """The numbers in a recipe's file that are not the original's; a protocol is there only where it suggests one."""
    unsaid = set() if Recipe.load(preset).tasks else {"protocol"}
    return {number for number, fact in facts(preset).items() if not fact.equal} - unsaid


def marked(preset: str) -> set[str]:
    """The numbers that the recipe's own file names as ours."""
    base, dataset = parts_of(preset)
    names = _marks((RECIPES / f"{base}.yaml").read_text(encoding="utf-8"), base)
    if names == {"all"}:
        return invented(preset)
    if dataset:
        texts = (path.read_text(encoding="utf-8") for path in RECIPES.glob("datasets/*.yaml"))
        section = next(m for text in texts if (m := re.search(rf"^{dataset}:\n(?:[ #].*\n|\n)*", text, re.M)))
        names = names - set(_place(preset)[1]["facts"]) | _marks(section.group(), base)
    return names


def _marks(text: str, preset: str) -> set[str]:
    """Of ``# ours: numbers``, and in a section also of ``# ours of PRESET: numbers``."""
    marks = re.findall(r"# ours(?: of ([\w-]+))?: ([a-z, ]+)", text)
    return {name.strip() for of, names in marks if of in ("", preset) for name in names.split(",")}


def _source(text: str) -> str:
    """``key place`` as a link; several are parted by ``;``."""

    def link(part: str) -> str:
        key, _, place = part.strip().partition(" ")
        title, url = published()["sources"][key]["title"], published()["sources"][key]["url"]
        return f"[{place}]({url}/{place})" if "/blob/" in url else f"[{title}, {place}]({url})"

    return "; ".join(map(link, text.split(";"))) if text else ""


def _cell(text: str | None) -> str:
    return "*not published*" if text is None else re.sub(r"\s+", " ", text.strip().replace("|", "\\|"))


def _rows(presets: dict[str, dict[str, Fact]]) -> Iterator[str]:
    """A line for every number and every set of presets that share it."""
    for number in next(iter(presets.values())):
        shared: dict[Fact, list[str]] = {}
        for name, numbers in presets.items():
            shared.setdefault(numbers[number], []).append(name)
        for fact, names in shared.items():
            if fact.absent:
                continue
            who = "" if len(shared) == 1 else f"<br>{', '.join(f'`{name}`' for name in names)}"
            theirs = (fact.original or "").split("<br>")
            lines = (line if line in theirs else f"**{line}**" for line in _cell(fact.ours).split("<br>"))
            mine = "same" if fact.equal else "<br>".join(lines)
            why = " ".join(filter(None, (_cell(fact.why), _source(fact.source))))
            yield f"| {number}{who} | {_cell(fact.original)} | {mine} | {why} |"


def page() -> str:
    """The whole page as Markdown."""
    every = {name: facts(name) for name in preset_names()}
    counts = {name: Counter(f.state for f in numbers.values() if not f.absent) for name, numbers in every.items()}
    total = sum(counts.values(), Counter())
    lines = [
        published()["head"].format(presets=len(every), numbers=total.total(), **total),
        "| number | what it is |\n|---|---|",
        *(f"| {name} | {what} |" for name, what in NUMBERS.items()),
        "\n| preset | equal | differs | ours |\n|---|--:|--:|--:|",
        *(f"| [`{n}`](#{_anchor(n)}) | {c['equal']} | {c['differs']} | {c['ours']} |" for n, c in counts.items()),
    ]
    for system in published()["systems"]:
        lines += [f"\n## {system['title']}\n", system["about"].strip()]
        for group in (*system["groups"], *system.get("datasets", {}).values()):
            presets = [name for name in every if _place(name)[1] is group]
            only = () if group in system["groups"] else group["facts"]
            tables = {name: {k: v for k, v in every[name].items() if not only or k in only} for name in presets}
            about = f"{', '.join(f'`{name}`' for name in presets)}. {group.get('about', '')}".strip()
            lines += [f"\n### {group['title']}\n\n{about}\n"]
            lines += ["| number | original | ours | why, source |\n|---|---|---|---|", *_rows(tables)]
    return "\n".join(lines) + "\n"


def _anchor(preset: str) -> str:
    return re.sub(r"[^\w -]", "", _place(preset)[1]["title"].lower()).replace(" ", "-")


if __name__ == "__main__":
    (HERE / "fidelity.md").write_text(page(), encoding="utf-8")
    print(HERE / "fidelity.md")
