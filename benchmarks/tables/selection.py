"""The toy world as a benchmark of selection: chosen sets against the usual choice and the best single activation.

Which set is chosen depends on the pictures that it is chosen with. So the choice is repeated, each time with training
and validation pictures of another world; all sets are scored on the same test pictures, of a world that no choice saw,
by probes trained on the training pictures of their choice. A score is the mean over the k choices. Its interval is a
bootstrap that draws test pictures and choices anew, k - 1 choices with replacement, which makes the variance of their
mean unbiased (drawing k would make it too small by (k - 1)/k). Differences are paired in both. How single choices
differ is told beside it.

The usual ("legacy") choice is that of earlier work: the outputs of all up blocks. Everything is read at the same
timestep, joined in the same way, and no set has more channels than the usual one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tables.rows import FILES, pair_score, write_bench
from diffeat.activations import Catalogue
from diffeat.backbones import Backbone
from diffeat.datasets.labelled import MaskDataset
from diffeat.datasets.pairs import PairDataset
from diffeat.datasets.toyworld.quadrupeds import SPECIES
from diffeat.datasets.toyworld_labels import read_toyworld_classes, read_toyworld_parts
from diffeat.datasets.toyworld_spair import read_toyworld_pairs, write_toyworld_pairs
from diffeat.errors import ModelError
from diffeat.evaluation.features import Features, feature_folder, features_of
from diffeat.evaluation.intervals import Interval, interval_of
from diffeat.evaluation.result import Table
from diffeat.extraction import Extractor, Reading
from diffeat.extraction.join import Concat
from diffeat.extraction.reading import Fuse
from diffeat.features import FeatureMap, Group, Picture, Streams
from diffeat.files import new_folder
from diffeat.progress import Progress, silent
from diffeat.report.selection import write_selection
from diffeat.studies.selection.labels import open_labels
from diffeat.studies.selection.observations import observations
from diffeat.studies.selection.score import Score, ratio
from diffeat.studies.selection.search import SelectionSettings, default_recipe, load_backbone, select
from diffeat.tasks.classification import evaluate_classification
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.correspondence.protocol import get_protocol
from diffeat.tasks.segmentation import Confusion, SegmentationOptions, evaluate_segmentation

SEED, SIZE = 7, 128
TASKS = ("correspondence", "part segmentation", "classification")
_FEW = 20
#: Labelled pairs or pictures that a candidate is scored on while choosing.
_SAMPLES = 420
_PROTOCOL = get_protocol("spair").replace(name="toyworld", alphas=(0.1,))


@dataclass(frozen=True)
class Repeated:
    """A score for each choice, over the same test pairs or pictures."""

    scores: tuple[Score, ...]

    @property
    def value(self) -> float:
        return float(np.mean([score.value for score in self.scores]))

    def resampled(self, replicates: int = 1000) -> np.ndarray:
        """Values with test pictures and choices drawn anew; those of two rows are drawn alike."""
        each = np.stack([score.resampled(replicates) for score in self.scores], 1)
        count = each.shape[1]
        if count == 1:
            return each[:, 0]
        drawn = np.random.default_rng(1).multinomial(count - 1, np.full(count, 1 / count), size=len(each))
        return (drawn * each).sum(1) / (count - 1)

    def __str__(self) -> str:
        return f"{self.value:.1f} {interval_of(self.resampled())}"


@dataclass(frozen=True)
class SelectionRow:
    """A way to come to a set, the set that it came to in every choice, and its scores by task."""

    name: str
    sets: tuple[tuple[str, ...], ...]
    channels: tuple[int, ...]
    scores: dict[str, Repeated]


@dataclass(frozen=True)
class _Choice:
    """One repetition: its pictures, and the set of every row."""

    data: Path
    sets: dict[str, tuple[str, ...]]
    observed: list[str]


class JoinedSet(Streams[FeatureMap]):
    """A set of activations, joined from maps that are stored already.

    Args:
        recipe: With the set as its activations, and how it is joined.
        features: Of all pictures, with the set's activations and maybe others.
    """

    def __init__(self, recipe: Reading, features: Features, fingerprint: str) -> None:
        self.recipe, self.fingerprint = recipe, fingerprint
        self._features, self._join = features, Concat(recipe.fuse or Fuse())

    def group(self, picture: Picture) -> Group:
        """Every picture alone."""
        return Group(picture.name)

    def read(self, pictures: Sequence[Picture]) -> Iterator[FeatureMap]:
        """The joined map of pictures by their paths."""
        for picture in pictures:
            stored = self._features.load(picture.name)
            fused, _ = self._join([[stored[str(id)] for id in self.recipe.activations]])
            told = {"recipe": self.recipe.name, "recipe_hash": self.recipe.hash, "prompt": stored.provenance["prompt"]}
            yield FeatureMap({"fused": fused}, stored.frame, stored.image, stored.digest, told)


def run_selection(
    folder: str | Path,
    *,
    model: str = "tiny-unet",
    timestep: float = 50,
    draws: int = 2,
    choices: int = 5,
    images: tuple[int, int, int] = (8, 6, 16),
    pairs: int = 20,
    progress: Progress = silent,
    force: bool = False,
) -> list[SelectionRow]:
    """Choose sets on the toy world and compare them.

    Args:
        folder: Holds pictures, features and reports; a later run goes on with them.
        force: Whether the report of an earlier run may be replaced; what else is there is gone on with.
        choices: How often to choose, each time with other training and validation pictures.
        images: Pictures per class for training and validation of each choice, and for the test.
        pairs: Validation and test pairs per class.

    Returns:
        The rows legacy, best single, selected. The reports lie in ``folder``.
    """
    root = new_folder(folder, FILES, force=force)
    backbone = load_backbone(model)
    legacy = legacy_choice(backbone)
    channels = {a.id: a.channels for a in Catalogue.of(backbone)}
    base = default_recipe(backbone).replace(
        frame={"mode": "squash", "size": SIZE}, **{"trajectory.timesteps": [timestep], "trajectory.draws": draws}
    )

    def world(name: str, seed: int, counts: dict[str, int]) -> Path:
        return write_toyworld_pairs(
            root / name / "toyworld", seed=seed, size=SIZE, images=counts, pairs=pairs, progress=progress
        )

    test = world("test", SEED, {"trn": 0, "val": 0, "test": images[2]})
    made: list[_Choice] = []
    for k in range(choices):
        data = world(f"choice-{k + 1}", SEED + 100 * (k + 1), {"trn": images[0], "val": images[1], "test": 0})
        labels = open_labels("toyworld", data, categories=tuple(SPECIES), most=_SAMPLES, seed=k)
        seen = sorted((data / "JPEGImages").glob("*/trn_*_0000.jpg"))[::2]
        where, settings = data.parent / "selection", SelectionSettings(sum(channels[id] for id in legacy), seed=k)
        found = select(backbone, seen, settings, where, labels=labels, base=base, progress=progress)
        write_selection(found, data.parent / "selected.yaml", where, force=True)
        sets = {"legacy choice": legacy, "best single": (found.best_single,), "selected set": found.steps[-1].ids}
        made.append(_Choice(data, sets, observations(found.measurement)))
    rows = _rows(made, test, base, backbone, channels, root, progress)
    _write(root, rows, [choice.observed for choice in made], base, images, pairs)
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


def _rows(
    made: Sequence[_Choice],
    test: Path,
    base: Reading,
    backbone: Backbone,
    channels: dict[str, int],
    root: Path,
    progress: Progress,
) -> list[SelectionRow]:
    """All rows; every picture is extracted once for all sets together."""
    wanted = list(dict.fromkeys(id for choice in made for ids in choice.sets.values() for id in ids))
    extractor = Extractor(base.replace(name="all sets", activations=wanted), backbone)
    texts = {
        sample.image: None
        for part in (read_toyworld_classes(test, "test"), *(read_toyworld_classes(c.data, "train") for c in made))
        for sample in part
        if isinstance(sample.image, Path)
    }
    scored: dict[str, list[dict[str, Score]]] = {name: [] for name in made[0].sets}
    matching: dict[tuple[str, ...], Score] = {}  # nothing is trained: the same for all choices of a set
    with features_of(extractor, texts, feature_folder(root, extractor), keep=0, progress=progress) as features:
        for k, choice in enumerate(made):
            for name, ids in choice.sets.items():
                recipe = base.replace(name=name, activations=list(ids), fuse={"kind": "concat", "normalise": True})
                source = JoinedSet(recipe, features, backbone.fingerprint)
                with tempfile.TemporaryDirectory(dir=root, prefix="joined-") as store:
                    if ids not in matching:
                        matching[ids] = _matching(read_toyworld_pairs(test), source, Path(store), progress)
                    learned = _learned(choice.data, test, source, Path(store), k, progress)
                scored[name].append({TASKS[0]: matching[ids], **learned})
    return [
        SelectionRow(
            name,
            tuple(choice.sets[name] for choice in made),
            tuple(sum(channels[id] for id in choice.sets[name]) for choice in made),
            {task: Repeated(tuple(s[task] for s in scores)) for task in TASKS},
        )
        for name, scores in scored.items()
    ]


def _matching(pairs: PairDataset, source: JoinedSet, store: Path, progress: Progress) -> Score:
    return pair_score(evaluate(pairs, source, _PROTOCOL, store=store, progress=progress).records, _PROTOCOL)


def _learned(data: Path, test: Path, source: JoinedSet, store: Path, seed: int, progress: Progress) -> dict[str, Score]:
    """Scores of probes that are trained on a choice's training pictures."""
    parts: tuple[MaskDataset, MaskDataset] = read_toyworld_parts(data, "train"), read_toyworld_parts(test, "test")
    options = SegmentationOptions(classifier="linear", labelled=_FEW, pixels=1500, category=tuple(SPECIES), seed=seed)
    split = evaluate_segmentation(parts, source, options, store=store, progress=progress).splits[0]
    k = len(parts[0].classes)
    classes = read_toyworld_classes(data, "train"), read_toyworld_classes(test, "test")
    right = evaluate_classification(classes, source, progress=progress).right.astype(float)
    return {
        TASKS[1]: Score(
            np.stack([c.counts.ravel() for c in split.confusions]),
            lambda sums: 100 * Confusion(k, sums.reshape(k, k)).miou,
        ),
        TASKS[2]: Score(np.stack([right, np.ones_like(right)], 1), ratio),
    }


@dataclass(frozen=True)
class Difference:
    """Mean over choices of one row's score minus another's, its interval, and the least and most of single choices."""

    value: float
    interval: Interval
    single: tuple[float, float]

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.interval.low:+.1f}, {self.interval.high:+.1f}]"


def difference(row: SelectionRow, other: SelectionRow, task: str) -> Difference:
    """What a row scores above another."""
    one, two = row.scores[task], other.scores[task]
    gains = [a.value - b.value for a, b in zip(one.scores, two.scores, strict=True)]
    return Difference(float(np.mean(gains)), interval_of(one.resampled() - two.resampled()), (min(gains), max(gains)))


def selection_table(rows: Sequence[SelectionRow]) -> Table:
    """Header and rows with intervals, and the differences of the last row from the others."""
    header = ["activations", "channels", *TASKS]
    body = [[r.name, _span(r.channels), *(str(r.scores[t]) for t in TASKS)] for r in rows]
    for other in rows[:-1]:
        differences = [difference(rows[-1], other, t) for t in TASKS]
        body.append([f"selected − {other.name}", "", *map(str, differences)])
        body.append(["… of single choices", "", *(f"{d.single[0]:+.1f} … {d.single[1]:+.1f}" for d in differences)])
    return header, body


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} … {high}"


def _write(
    root: Path,
    rows: Sequence[SelectionRow],
    observed: Sequence[Sequence[str]],
    base: Reading,
    images: tuple[int, int, int],
    pairs: int,
) -> None:
    choices = len(rows[0].sets)
    units = {t: len(rows[0].scores[t].scores[0].units) for t in TASKS}
    notes = [
        f"model {Path(base.model).name} at t = {base.trajectory.timesteps[0]:g}, {base.trajectory.draws} draws; "
        f"toy world of {SIZE} px; test pictures of seed {SEED}, {images[2]} per class",
        f"{choices} choices, each with training and validation pictures of a seed of its own, {images[0]} and "
        f"{images[1]} per class and {pairs} validation pairs per class; no choice saw a test picture",
        f"correspondence: PCK@0.1 of the target's box, mean over {units[TASKS[0]]} pairs",
        f"part segmentation: mIoU over {units[TASKS[1]]} pictures of {len(SPECIES)} animals, linear probe on {_FEW} "
        "training pictures of the choice",
        f"classification: accuracy over {units[TASKS[2]]} pictures, linear probe on averaged features of the choice's "
        "training pictures",
        "intervals are 95 % bootstraps over test pictures and over choices; differences are paired",
        *(f"{r.name}, choice {k}: {', '.join(ids)}" for r in rows[1:] for k, ids in enumerate(r.sets, 1)),
        *(f"measured in choice {k}: {line}" for k, lines in enumerate(observed, 1) for line in lines),
    ]
    data = [
        {
            "name": r.name,
            "sets": [list(ids) for ids in r.sets],
            "channels": list(r.channels),
            "scores": {
                t: {"value": s.value, "interval": interval_of(s.resampled()), "choices": [x.value for x in s.scores]}
                for t, s in r.scores.items()
            },
        }
        for r in rows
    ]
    title = "Toy world: chosen sets of activations against the usual one"
    write_bench(root, title, selection_table(rows), notes, data, force=True)
