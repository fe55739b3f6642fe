"""The toy world as a benchmark of selection: the chosen set against the usual choice and the best single activation.

The set is chosen on training and validation pictures; all numbers are of test pictures. The usual ("legacy") choice is
that of earlier work: the outputs of all up blocks. Everything is read at the same timestep, joined in the same way, and
no set has more channels than the usual one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffeat.activations import Catalogue
from diffeat.backbones import Backbone
from diffeat.bench.rows import FILES, write_bench
from diffeat.datasets.registry import open_dataset
from diffeat.datasets.toyworld.quadrupeds import SPECIES
from diffeat.datasets.toyworld_labels import read_toyworld_classes, read_toyworld_parts
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.errors import ModelError
from diffeat.evaluation.features import feature_folder
from diffeat.evaluation.result import Table
from diffeat.extraction import Extractor, Reading
from diffeat.files import new_folder
from diffeat.progress import Progress, silent
from diffeat.report.selection import write_selection
from diffeat.studies.selection.labels import open_labels
from diffeat.studies.selection.score import Score, ratio
from diffeat.studies.selection.search import SelectionSettings, default_recipe, load_backbone, select
from diffeat.tasks.classification import evaluate_classification
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.correspondence.protocol import get_protocol
from diffeat.tasks.segmentation import Confusion, SegmentationOptions, evaluate_segmentation

SEED, SIZE = 7, 128
TASKS = ("correspondence", "part segmentation", "classification")
_FEW, _DRAWS = 20, 3
#: Labelled pairs or pictures that a candidate is scored on while choosing.
_SAMPLES = 420
_PROTOCOL = get_protocol("spair").replace(name="toyworld", alphas=(0.1,))


@dataclass(frozen=True)
class SelectionRow:
    """A set of activations and its scores by task."""

    name: str
    activations: tuple[str, ...]
    channels: int
    scores: dict[str, Score]


def run_selection(
    folder: str | Path,
    *,
    model: str = "tiny-unet",
    timestep: float = 50,
    draws: int = 2,
    images: tuple[int, int, int] = (24, 16, 24),
    pairs: int = 40,
    progress: Progress = silent,
    force: bool = False,
) -> list[SelectionRow]:
    """Choose a set on the toy world and compare it.

    Args:
        folder: Holds pictures, features and reports; a later run goes on with them.
        force: Whether the report of an earlier run may be replaced; what else is there is gone on with.
        images: Pictures per class for training, validation and test.

    Returns:
        The rows legacy, best single, selected. The reports lie in ``folder``.
    """
    root = new_folder(folder, FILES, force=force)
    counts: dict[str, int] = dict(zip(("trn", "val", "test"), images, strict=True))
    data = write_toyworld_pairs(root / "toyworld", seed=SEED, size=SIZE, images=counts, pairs=pairs, progress=progress)
    backbone = load_backbone(model)
    legacy = legacy_choice(backbone)
    channels = {a.id: a.channels for a in Catalogue.of(backbone)}
    budget = sum(channels[id] for id in legacy)
    base = default_recipe(backbone).replace(
        frame={"mode": "squash", "size": SIZE}, **{"trajectory.timesteps": [timestep], "trajectory.draws": draws}
    )
    labels = open_labels("toyworld", data, categories=tuple(SPECIES), most=_SAMPLES)
    seen = sorted((data / "JPEGImages").glob("*/trn_*_0000.jpg"))
    settings = SelectionSettings(budget)
    selection = select(backbone, seen, settings, root / "selection", labels=labels, base=base, progress=progress)
    write_selection(selection, root / "selected.yaml", root / "selection", force=True)
    sets = {"legacy choice": legacy, "best single": (selection.best_single,), "selected set": selection.steps[-1].ids}
    rows = [_row(name, tuple(ids), channels, base, backbone, data, root, progress) for name, ids in sets.items()]
    _write(root, model, rows)
    return rows


def legacy_choice(backbone: Backbone) -> tuple[str, ...]:
    """The outputs of all up blocks.

    Raises:
        ModelError: The model is no UNet.
    """
    found = tuple(f"up_blocks.{i}" for i in range(len(getattr(backbone.denoiser, "up_blocks", ()))))
    if not found:
        raise ModelError(f"{backbone.name} is no UNet; there is no usual choice to compare with.")
    return found


def _row(
    name: str,
    ids: tuple[str, ...],
    channels: dict[str, int],
    base: Reading,
    backbone: Backbone,
    data: Path,
    root: Path,
    progress: Progress,
) -> SelectionRow:
    recipe = base.replace(name=name, activations=list(ids), fuse={"kind": "concat", "normalise": True})
    extractor = Extractor(recipe, backbone)
    store = feature_folder(root, extractor)
    pairs = open_dataset("toyworld", data, "test", kind="pairs")
    found = evaluate(pairs, extractor, _PROTOCOL, store=store, progress=progress)
    hits = [[100 * np.mean(np.array(r.distances) <= 0.1 * r.lengths["bbox"]), 100.0] for r in found.records]
    parts = read_toyworld_parts(data, "train"), read_toyworld_parts(data, "test")
    draws = [
        evaluate_segmentation(
            parts,
            extractor,
            SegmentationOptions(classifier="linear", labelled=_FEW, pixels=1500, category=tuple(SPECIES), seed=seed),
            store=store,
            progress=progress,
        )
        for seed in range(_DRAWS)
    ]
    counts = sum(np.stack([c.counts.ravel() for c in s.splits[0].confusions]) for s in draws)
    k = len(parts[0].classes)
    classes = read_toyworld_classes(data, "train"), read_toyworld_classes(data, "test")
    right = evaluate_classification(classes, extractor, store=store, progress=progress).right.astype(float)
    scores = {
        "correspondence": Score(np.array(hits), ratio),
        "part segmentation": Score(np.asarray(counts), lambda sums: 100 * Confusion(k, sums.reshape(k, k)).miou),
        "classification": Score(np.stack([right, np.ones_like(right)], 1), ratio),
    }
    return SelectionRow(name, ids, sum(channels[id] for id in ids), scores)


def difference(row: SelectionRow, other: SelectionRow, task: str) -> tuple[float, float, float]:
    """Score of ``row`` minus that of ``other``, with a paired 95 % interval over test pairs or pictures."""
    one, two = row.scores[task], other.scores[task]
    low, high = one.against(two)
    return one.value - two.value, low, high


def selection_table(rows: Sequence[SelectionRow]) -> Table:
    """Header and rows with intervals, and the differences of the last row from the others."""
    header = ["activations", "channels", *TASKS]
    body = [[r.name, str(r.channels), *(str(r.scores[t]) for t in TASKS)] for r in rows]
    for other in rows[:-1]:
        cells = (difference(rows[-1], other, t) for t in TASKS)
        body.append(
            [f"selected − {other.name}", "", *(f"{d:+.1f} [{low:+.1f}, {high:+.1f}]" for d, low, high in cells)]
        )
    return header, body


def _write(root: Path, model: str, rows: Sequence[SelectionRow]) -> None:
    units = {t: len(rows[0].scores[t].units) for t in TASKS}
    notes = [
        f"model {Path(model).name}; test pictures of toy world {SEED}, none of which was looked at while choosing",
        f"correspondence: PCK@0.1 of the target's box over {units[TASKS[0]]} pairs",
        f"part segmentation: mIoU over {units[TASKS[1]]} pictures of {len(SPECIES)} animals, linear probe on "
        f"{_FEW} labelled pictures, {_DRAWS} draws of them",
        f"classification: accuracy over {units[TASKS[2]]} pictures, linear probe on averaged features",
        "intervals are 95 % bootstraps over pairs or pictures; differences are paired",
        *(f"{r.name}: {', '.join(r.activations)}" for r in rows),
    ]
    data = [
        {
            "name": r.name,
            "activations": list(r.activations),
            "channels": r.channels,
            "scores": {t: {"value": s.value, "interval": s.interval()} for t, s in r.scores.items()},
        }
        for r in rows
    ]
    title = "Toy world: a chosen set of activations against the usual one"
    write_bench(root, title, selection_table(rows), notes, data, force=True)
