"""Rows of a benchmark: names, where their features come from, and their scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffeat.datasets.pairs import PairDataset
from diffeat.evaluation.features import feature_folder
from diffeat.evaluation.intervals import Interval, interval_of
from diffeat.evaluation.result import Table, joined
from diffeat.evaluation.texts import PromptPolicy
from diffeat.features import FeatureMap, Source
from diffeat.files import write_files
from diffeat.progress import Progress, silent
from diffeat.report.page import Page, markdown_report, markdown_table
from diffeat.studies.selection.score import Score, ratio
from diffeat.tasks.correspondence.evaluate import Evaluation, evaluate
from diffeat.tasks.correspondence.keypoints import PairRecord
from diffeat.tasks.correspondence.protocol import Protocol

#: What is written of a benchmark.
FILES = ("bench.json", "bench.md", "bench.html")


@dataclass(frozen=True)
class RowSource:
    """A source of features and the rows that its maps make.

    Attributes:
        rows: Name of each row, and the activation it reads (``None`` where the source gives one map).
    """

    make: Callable[[], Source[FeatureMap]]
    rows: dict[str, str | None]
    prompts: PromptPolicy = None


@dataclass(frozen=True)
class BenchRow:
    """A row of a benchmark's table."""

    name: str
    evaluation: Evaluation


def score_rows(
    sources: Sequence[RowSource], dataset: PairDataset, protocol: Protocol, folder: Path, progress: Progress = silent
) -> list[BenchRow]:
    """Evaluate all rows; pictures are extracted once for each source, whatever its number of rows."""
    found = []
    for source in sources:
        extractor = source.make()
        for name, activation in source.rows.items():
            evaluation = evaluate(
                dataset,
                extractor,
                protocol,
                prompts=source.prompts,
                activation=activation,
                store=feature_folder(folder, extractor),
                progress=progress,
            )
            found.append(BenchRow(name, evaluation))
    return found


def pair_score(records: Sequence[PairRecord], protocol: Protocol) -> Score:
    """PCK at the protocol's quoted threshold over all pairs, by the pair or by the point; pairs share pictures."""
    alpha, by_point = protocol.alpha, protocol.average.endswith("point")
    units = []
    for record in records:
        distances, limit = np.asarray(record.distances), alpha * record.lengths[protocol.reference]
        near = distances <= limit if protocol.inclusive else distances < limit
        units.append([near.sum(), len(near)] if by_point else [near.mean(), 1.0])
    return Score(np.array(units), ratio, tuple(r.images for r in records))


def choosing(validation: Sequence[Score]) -> np.ndarray:
    """Which of the candidates is best in each replicate of the validation pictures."""
    return np.stack([score.resampled() for score in validation]).argmax(0)


def with_choosing(choices: np.ndarray, test: Mapping[int, Score], other: Score | None = None) -> tuple[float, Interval]:
    """The mean test score of what is chosen, and its interval when validation and test pictures are both drawn anew.

    Args:
        choices: (R,) of :func:`choosing`.
        test: Scores over the same test pictures of every candidate that was chosen.
        other: What is compared with it, on the same pictures: numbers are of what this scores above.
    """
    drawn = {k: score.resampled(len(choices)) for k, score in test.items()}
    value, values = np.mean([test[k].value for k in choices]), np.array([drawn[k][r] for r, k in enumerate(choices)])
    if other is not None:
        value, values = other.value - value, other.resampled(len(choices)) - values
    return float(value), interval_of(values)


def bench_table(rows: Sequence[BenchRow]) -> Table:
    """Header and rows, with intervals."""
    protocol = rows[0].evaluation.result.protocol
    return ["features", *protocol.columns()], [
        [r.name, *(r.evaluation.result.cell(a) for a in protocol.alphas)] for r in rows
    ]


def write_rows(
    folder: Path, title: str, rows: Sequence[BenchRow], notes: Sequence[str] = (), *, force: bool = False
) -> None:
    """:func:`write_bench` of rows that are scored by one protocol."""
    result = rows[0].evaluation.result
    about = [
        str(result.protocol),
        f"{result.counts}; intervals are {result.confidence:.0%} bootstraps over pictures",
        *joined(notes, *(r.evaluation.notes for r in rows)),
    ]
    data = [{"name": r.name, "recipe_hash": r.evaluation.recipe_hash, **r.evaluation.result.to_dict()} for r in rows]
    write_bench(folder, title, bench_table(rows), about, data, force=force)


def write_bench(
    folder: Path,
    title: str,
    table: Table,
    about: Sequence[str],
    data: Sequence[Mapping[str, object]],
    *,
    force: bool = False,
) -> None:
    """Write ``bench.json``, ``bench.md`` and ``bench.html``; those of an earlier run with ``force`` alone."""
    page = Page(title)
    page.table(*table)
    page.bullets(about)
    text = markdown_report(title, [markdown_table(*table)], about)
    write_files(folder, FILES, [json.dumps({"title": title, "rows": data}, indent=1), text, page.html()], force=force)
