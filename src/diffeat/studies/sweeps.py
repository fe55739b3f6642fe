"""Which timestep and which block: a recipe scored at every combination, on a dataset.

Pictures are extracted once for each timestep, all blocks together; each cell of the table is then scored and written
to disk. A later run of the same sweep, or of a larger one, goes on with the cells that are there. Choose on a
validation split: the best of many cells is too good a number for the split it was chosen on.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from diffeat.activations import Catalogue
from diffeat.datasets.pairs import PairDataset
from diffeat.errors import InvalidValueError
from diffeat.evaluation.texts import PromptPolicy
from diffeat.extraction import Extractor, Reading
from diffeat.progress import Progress, silent
from diffeat.storage.atomic import StagedFile
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.correspondence.protocol import Protocol


@dataclass(frozen=True)
class Cell:
    """One combination's score.

    Attributes:
        timestep: 0…1000.
        value: Score by the protocol's headline, in percent.
    """

    timestep: float
    block: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sweep:
    """The outcome of :func:`sweep`.

    Attributes:
        base: What was swept.
        dataset: Name and split.
        computed: How many cells this run scored; the others were there.
    """

    base: Reading
    dataset: str
    protocol: Protocol
    timesteps: tuple[float, ...]
    blocks: tuple[str, ...]
    cells: dict[tuple[float, str], Cell]
    computed: int

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
        """The recipe at the best cell."""
        best, name = self.best, f"{self.base.name}-swept"
        path = {"trajectory.timesteps": [best.timestep]}
        return self.base.replace(activations=[best.block], fuse=None, name=name, **path)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: blocks by timesteps, scores in percent."""
        header = ["block", *(f"t = {t:g}" for t in self.timesteps)]
        return header, [[b, *(f"{self.cells[t, b].value:.1f}" for t in self.timesteps)] for b in self.blocks]


def sweep(
    recipe: Reading,
    extractor: Callable[[Reading], Extractor],
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
        weights: Fingerprint of the model (:attr:`Extractor.fingerprint`), so that other weights are other cells.

    Raises:
        UnknownNameError: A block that the model does not have.
    """
    root = Path(folder)
    (root / "cells").mkdir(parents=True, exist_ok=True)
    if not timesteps or not blocks:
        raise InvalidValueError("A sweep takes at least one timestep and one block.")
    times, names = tuple(dict.fromkeys(map(float, timesteps))), tuple(dict.fromkeys(blocks))
    cells: dict[tuple[float, str], Cell] = {}
    computed = 0
    facts = (dataset.name, dataset.split, str(dataset.root), [p.name for p in dataset], str(protocol), _plain(prompts))
    told = repr(facts) + weights
    for t in progress(times, total=len(times), desc="timesteps"):
        wide = recipe.replace(activations=list(names), fuse=None, **{"trajectory.timesteps": [t]})
        reader: Extractor | None = None
        store = root / f"features-{wide.hash[:12]}"
        for name in names:
            single = wide.replace(activations=[name])
            key = hashlib.sha256(f"{single.hash}|{told}".encode()).hexdigest()[:24]
            file = root / "cells" / f"{key}.json"
            if file.is_file():
                cells[t, name] = Cell(**json.loads(file.read_text(encoding="utf-8")))
                continue
            reader = reader or extractor(wide)
            found = evaluate(
                dataset, reader, protocol, prompts=prompts, store=store, activation=name, progress=progress
            ).result
            low, high = found.intervals.get(protocol.alpha, (found.value, found.value))
            cells[t, name] = Cell(t, name, found.value, low, high)
            StagedFile(file, json.dumps(asdict(cells[t, name])).encode()).commit()
            computed += 1
        shutil.rmtree(store, ignore_errors=True)
    name = f"{dataset.name} {dataset.split}".strip()
    return Sweep(recipe, name, protocol, times, names, cells, computed)


def block_names(recipe: Reading, catalogue: Catalogue, wanted: Sequence[str | int]) -> list[str]:
    """Activations for numbers, ids, aliases and patterns.

    A number k stands for the recipe's first activation at block k: ``ditf:28`` gives ``ditf:k``, and
    ``transformer_blocks.9.ff.adaln`` gives ``transformer_blocks.k.ff.adaln``.

    Raises:
        UnknownNameError: A block that the model does not have.
        InvalidValueError: Numbers, with an activation that has no number in it.
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


def _plain(prompts: PromptPolicy) -> object:
    return sorted(prompts.items()) if isinstance(prompts, Mapping) else prompts
