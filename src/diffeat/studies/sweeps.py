"""Which timestep and which block: a recipe scored at every combination, on a dataset.

Pictures are extracted once for each timestep, all blocks together (:func:`sweep` on pairs;
:mod:`~diffeat.studies.mask_sweeps` for parts and words); each cell of the table is then scored and written to disk. A
later run of the same sweep, or of a larger one, goes on with the cells that are there. Choose on a validation split:
the best of many cells is too good a number for the split it was chosen on.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from diffeat.activations import Catalogue
from diffeat.backbones import Memory
from diffeat.datasets.pairs import PairDataset
from diffeat.errors import InvalidValueError
from diffeat.evaluation.result import Tabled, joined
from diffeat.evaluation.texts import PromptPolicy
from diffeat.extraction import Reading
from diffeat.features import FeatureMap, Source
from diffeat.progress import Progress, silent
from diffeat.storage.atomic import StagedFile
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.correspondence.keypoints import PckResult
from diffeat.tasks.correspondence.protocol import Protocol


class Scale(typing.Protocol):
    """What the numbers of cells are."""

    @property
    def sides(self) -> tuple[str, str]:
        """What the value is taken per, and what the other number is."""
        ...

    def measure(self) -> str: ...


#: Scores names (blocks) at a timestep, one after the other.
Scoring = Callable[[float, Sequence[str]], Iterable["Cell"]]


@dataclass(frozen=True)
class Cell:
    """One combination's score.

    Attributes:
        timestep: 0…1000.
        value: PCK by the protocol's threshold and average, or mIoU, in percent.
        other: By the other of the protocol's :attr:`Scale.sides`.
        pairs: Or pictures that were scored.
        points: Of pairs.
        notes: What a reader of the score must know.
    """

    timestep: float
    block: str
    value: float
    low: float
    high: float
    other: float
    pairs: int
    points: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, timestep: float, block: str, result: PckResult) -> Cell:
        alpha, (_, other) = result.protocol.alpha, result.protocol.averages
        low, high = result.intervals.get(alpha, (result.value, result.value))
        beside, score = result.overall.values[alpha][other], result.overall
        return cls(timestep, block, result.value, low, high, beside, score.pairs, score.points, result.notes)

    def told(self, protocol: Scale) -> str:
        """The score with all that it means."""
        quoted, other = protocol.sides
        counted = f"{self.pairs} pairs, {self.points} points" if self.points else f"{self.pairs} pictures"
        return (
            f"{protocol.measure()} {self.value:.1f} [{self.low:.1f}, {self.high:.1f}] {quoted} ({self.other:.1f} "
            f"{other}); {counted}"
        )


@dataclass(frozen=True, repr=False)
class Sweep(Tabled):
    """The outcome of :func:`sweep`.

    Attributes:
        base: What was swept.
        dataset: Name and split.
        computed: How many cells this run scored; the others were there.
        task: What was scored; blocks of ``words`` are attentions, which the recipe has among the task's options.
    """

    base: Reading
    dataset: str
    protocol: Scale
    timesteps: tuple[float, ...]
    blocks: tuple[str, ...]
    cells: dict[tuple[float, str], Cell]
    computed: int
    task: str = "correspondence"

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        return self.dataset, {"best": self.best.told(self.protocol), "of": self.base.name, "cells": len(self.cells)}

    @property
    def best(self) -> Cell:
        """The cell of the highest score."""
        return max(self.cells.values(), key=lambda c: c.value)

    @property
    def rivals(self) -> list[Cell]:
        """Cells whose interval reaches the best score: the data do not tell them from it."""
        return [c for c in self.cells.values() if c.high >= self.best.value and c != self.best]

    @property
    def recipe(self) -> Reading:
        """The recipe at the best cell; it says which sweep chose it."""
        best, base = self.best, self.base
        times = ", ".join(f"{t:g}" for t in self.timesteps)
        path = {"trajectory.timesteps": [best.timestep]}
        own = {**base.tasks.get(self.task, {}), "layers": [best.block]}
        words = {"tasks": {**base.tasks, self.task: own}}
        return base.replace(
            **(words if self.task == "words" else {"activations": [best.block], "fuse": None}),
            name=f"{base.name}-swept",
            description=f"{base.name} at the best timestep and block of a sweep on {self.dataset}",
            source=f"The best of {len(self.cells)} cells of a sweep of {base.name} on {self.dataset}: "
            f"{best.told(self.protocol)}. Tried: t = {times}; {', '.join(self.blocks)}. "
            f"{' '.join(f'{note}.' for note in self.notes)} Before: {base.source or 'unsaid'}",
            **path,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the scores must know: which of the pairs were scored, texts, precision."""
        return joined(*(cell.notes for cell in self.cells.values()))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: blocks by timesteps; the protocol's average and the other, in percent."""
        header = ["block", *(f"t = {t:g}" for t in self.timesteps)]

        def told(cell: Cell) -> str:
            return f"{cell.value:.1f} ({cell.other:.1f})"

        return header, [[b, *(told(self.cells[t, b]) for t in self.timesteps)] for b in self.blocks]


def sweep(
    recipe: Reading,
    extractor: Callable[[Reading], Source[FeatureMap]],
    dataset: PairDataset,
    protocol: Protocol,
    folder: str | Path,
    *,
    timesteps: Sequence[float],
    blocks: Sequence[str],
    prompts: PromptPolicy = None,
    weights: str = "",
    progress: Progress = silent,
) -> Sweep:
    """Score a recipe at every timestep and block.

    Args:
        recipe: Its timesteps and activations are replaced, all else stays.
        extractor: Makes an extractor of a recipe; called once for each timestep with missing cells.
        dataset: A validation split, with care.
        folder: Keeps the cells; features are removed once a timestep is done.
        blocks: Activations to try (see :func:`block_names`).
        weights: Fingerprint of the model (:attr:`Source.fingerprint`), so that other weights are other cells.

    Raises:
        UnknownNameError: A block that the model does not have.
    """
    prompts = protocol.prompts(prompts, recipe)
    told = sorted(prompts.items()) if isinstance(prompts, Mapping) else prompts
    pairs = [pair.name for pair in dataset]
    facts = (dataset.name, dataset.split, str(dataset.root), pairs, protocol.to_dict(), told)

    def score(t: float, wanted: Sequence[str]) -> Iterator[Cell]:
        wide = recipe.replace(activations=list(blocks), fuse=None, **{"trajectory.timesteps": [t]})
        reader, store = extractor(wide), Path(folder) / f"features-{wide.hash[:12]}"
        for name in wanted:
            result = evaluate(
                dataset, reader, protocol, prompts=prompts, store=store, activation=name, progress=progress
            ).result
            yield Cell.of(t, name, result)
        shutil.rmtree(store, ignore_errors=True)

    name = f"{dataset.name} {dataset.split}".strip()
    return swept(recipe, folder, timesteps, blocks, (facts, weights), score, progress, name, protocol)


def swept(
    recipe: Reading,
    folder: str | Path,
    timesteps: Sequence[float],
    blocks: Sequence[str],
    facts: object,
    score: Scoring,
    progress: Progress,
    dataset: str,
    protocol: Scale,
    task: str = "correspondence",
) -> Sweep:
    """Every cell, those that rest in the folder not scored again; ``facts`` are what else the scores depend on."""
    if not timesteps or not blocks:
        raise InvalidValueError("A sweep takes at least one timestep and one block.")
    root = Path(folder)
    (root / "cells").mkdir(parents=True, exist_ok=True)
    form = [field.name for field in fields(Cell)]  # cells of another form are scored anew
    names, cells, computed = list(dict.fromkeys(blocks)), dict[tuple[float, str], Cell](), 0
    kept = Memory(root / "encoded")  # of the pictures, which every timestep sees
    times = tuple(dict.fromkeys(map(float, timesteps)))
    for t in progress(times, total=len(times), desc="timesteps"):
        files: dict[str, Path] = {}
        for name in names:
            key = hashlib.sha256(f"{recipe.hash}|{t}|{name}|{form}|{facts!r}".encode()).hexdigest()[:24]
            files[name] = root / "cells" / f"{key}.json"
        missing = [name for name in names if not files[name].is_file()]
        with kept:
            for cell in score(t, missing) if missing else ():
                StagedFile(files[cell.block], json.dumps(asdict(cell)).encode()).commit()
                computed += 1
        for name, file in files.items():
            stored = json.loads(file.read_text(encoding="utf-8"))
            cells[t, name] = Cell(**stored | {"notes": tuple(stored["notes"])})
    kept.clear()
    return Sweep(recipe, dataset, protocol, times, tuple(names), cells, computed, task)


def block_names(recipe: Reading, catalogue: Catalogue, wanted: Sequence[str | int]) -> list[str]:
    """Activations for numbers, ids, aliases and patterns.

    A number k stands for the recipe's first activation at block k: ``ditf:28`` gives ``ditf:k``, and
    ``transformer_blocks.9.ff.adaln`` gives ``transformer_blocks.k.ff.adaln``.
    """
    first = recipe.activations[0]
    pattern = first if isinstance(first, str) else getattr(first, "id", str(first))
    names: list[str] = []
    for item in wanted:
        if isinstance(item, int):
            name, changed = re.subn(r"(?<=[:.])\d+(?=\.|$)", str(item), pattern, count=1)
            if not changed:
                raise InvalidValueError(f"Block {item} cannot be put into {pattern!r}; give activations by name.")
            catalogue[name]  # refuses what is not there, naming the nearest
            names.append(name)
        else:
            names += [item] if item in catalogue else [a.id for a in catalogue.find(item)]
    return list(dict.fromkeys(names))
