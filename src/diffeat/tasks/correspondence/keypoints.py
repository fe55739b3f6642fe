"""The percentage of correct keypoints, with confidence intervals.

Pure functions: :func:`record_pair` turns the predictions of one image pair into distances and reference
lengths; :func:`pck` turns any number of records into the numbers of one protocol. Records hold everything that
every protocol needs except the prediction grid, so they can be stored and scored again.

Intervals come from a bootstrap over pictures (:mod:`diffeat.evaluation.intervals`): a pair depends on two pictures and
a picture lies in many pairs, so resampling pairs would be too sure of itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffeat.errors import InvalidValueError
from diffeat.evaluation.intervals import Interval, interval_of, resampled
from diffeat.evaluation.result import Table, Tabled
from diffeat.tasks.correspondence.protocol import PER, Average, Protocol


@dataclass(frozen=True)
class PairRecord:
    """The errors of one image pair.

    Attributes:
        category: Its category, ``""`` where there are none.
        images: Names of the source and the target picture: the units of resampling.
        distances: Pixels between prediction and truth, in the original target picture, one per keypoint.
        lengths: Reference lengths in pixels: ``{"bbox": …, "image": …, "pixels": 1}``;
            ``"bbox"`` may be missing.
    """

    name: str
    category: str
    images: tuple[str, str]
    distances: tuple[float, ...]
    lengths: dict[str, float]


@dataclass(frozen=True)
class Score:
    """PCK of a set of pairs, in percent.

    Attributes:
        values: Per alpha and average: ``values[alpha]["image" | "point"]``.
    """

    values: dict[float, dict[str, float]]
    pairs: int
    points: int


@dataclass(frozen=True, repr=False)
class PckResult(Tabled):
    """Numbers and the protocol they belong to; printing it prints both, by the pair and by the point.

    Attributes:
        overall: All pairs; ``values`` has the macro averages, too.
        spreads: For both of the protocol's :attr:`~Protocol.averages`, per alpha, the confidence interval in percent.
        notes: What a reader of the numbers must know.
    """

    protocol: Protocol
    overall: Score
    categories: dict[str, Score]
    spreads: dict[str, dict[float, Interval]]
    confidence: float = 0.95
    notes: tuple[str, ...] = ()

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        return self.protocol.measure(), {
            "value": self.number(self.protocol.alpha, self.protocol.average),
            "over": self.counts,
        }

    def __getitem__(self, alpha: float) -> float:
        """The protocol's number at ``alpha``, in percent."""
        if alpha not in self.overall.values:
            raise InvalidValueError(
                f"alpha {alpha} was not scored; the protocol has {', '.join(f'{a:g}' for a in self.protocol.alphas)}."
            )
        return self.overall.values[alpha][self.protocol.average]

    @property
    def value(self) -> float:
        """The number that is quoted, in percent."""
        return self[self.protocol.alpha]

    @property
    def intervals(self) -> dict[float, Interval]:
        """Per alpha, the interval of the protocol's average, in percent."""
        return self.spreads.get(self.protocol.average, {})

    def number(self, alpha: float, average: Average, digits: int = 1) -> str:
        """``48.1 [45.0, 51.2]``."""
        interval = self.spreads.get(average, {}).get(alpha)
        spread = "" if interval is None else f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
        return f"{self.overall.values[alpha][average]:.{digits}f}{spread}"

    def cell(self, alpha: float) -> str:
        """``48.1 [45.0, 51.2] (54.3)``: the protocol's average, and the other; headings are ``protocol.columns()``."""
        quoted, other = self.protocol.averages
        return f"{self.number(alpha, quoted)} ({self.overall.values[alpha][other]:.1f})"

    @property
    def headline(self) -> str:
        """The quoted number with all that it means: threshold, both averages, their intervals, counts."""
        alpha = self.protocol.alpha
        numbers = ", ".join(f"{self.number(alpha, average)} {PER[average]}" for average in self.protocol.averages)
        return f"{self.protocol.measure()}: {numbers}; {self.counts}"

    @property
    def counts(self) -> str:
        """``340 pairs, 2510 points``."""
        return f"{self.overall.pairs} pairs, {self.overall.points} points"

    def __str__(self) -> str:
        width = max(len(PER[average]) for average in self.protocol.averages)
        lines = [
            "   ".join(
                [f"{PER[k]:{width}}", *(f"PCK@{a:g} {self.number(a, k, digits=2)}" for a in self.protocol.alphas)]
            )
            for k in self.protocol.averages
        ]
        spread = f"; {self.confidence:.0%} bootstrap over pictures" if self.intervals else ""
        lines.append(f"({self.protocol}; {self.counts}{spread})")
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])

    def table(self) -> Table:
        """By category, the protocol's average and the other; the last row is over all."""

        def row(name: str, score: Score, averages: Sequence[str]) -> list[str]:
            quoted, other = averages
            cells = (f"{score.values[a][quoted]:.1f} ({score.values[a][other]:.1f})" for a in self.protocol.alphas)
            return [name, str(score.pairs), str(score.points), *cells]

        inside = [average.removeprefix("category-") for average in self.protocol.averages]
        rows = [row(name or "(none)", score, inside) for name, score in self.categories.items()]
        return ["category", "pairs", "points", *self.protocol.columns()], [
            *rows,
            row("all", self.overall, self.protocol.averages),
        ]

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""

        def plain(score: Score) -> dict[str, object]:
            return {"pairs": score.pairs, "points": score.points, "pck": {f"{a:g}": v for a, v in score.values.items()}}

        return {
            "protocol": self.protocol.to_dict(),
            "pck": {f"{a:g}": self[a] for a in self.protocol.alphas},
            "intervals": {f"{a:g}": list(v) for a, v in self.intervals.items()},
            "averages": {
                average: {
                    f"{a:g}": {
                        "pck": self.overall.values[a][average],
                        "interval": list(self.spreads.get(average, {}).get(a, ())),
                    }
                    for a in self.protocol.alphas
                }
                for average in self.protocol.averages
            },
            "confidence": self.confidence,
            "overall": plain(self.overall),
            "categories": {name: plain(score) for name, score in self.categories.items()},
            "notes": list(self.notes),
        }


def record_pair(
    predicted: ArrayLike,
    truth: ArrayLike,
    *,
    target_size: tuple[int, int],
    target_box: Sequence[float] | None = None,
    name: str = "",
    category: str = "",
    images: tuple[str, str] | None = None,
) -> PairRecord:
    """Errors of one pair's predictions.

    Args:
        predicted: (k, 2) points (x, y) in original target pixels.
        truth: (k, 2) keypoints, likewise.
        target_size: (width, height) of the target picture.
        target_box: (left, top, right, bottom) of the target object.
        images: Names of source and target picture; the pair counts as a unit of its own if not given.

    Raises:
        InvalidValueError: No keypoint, unequal numbers, NaN, or a box without area.
    """
    p, t = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    label = f"pair {name!r}" if name else "the pair"
    if p.shape != t.shape or p.ndim != 2 or p.shape[1] != 2:
        raise InvalidValueError(
            f"Predictions and keypoints of {label} must both be (k, 2), got {p.shape} and {t.shape}."
        )
    if len(p) == 0:
        raise InvalidValueError(f"There is no keypoint in {label}: its PCK is undefined. Leave it out and count it.")
    if not (np.isfinite(p).all() and np.isfinite(t).all()):
        raise InvalidValueError(f"A predicted or true point of {label} is not a number.")
    lengths = {"image": float(max(target_size)), "pixels": 1.0}
    if target_box is not None:
        left, top, right, bottom = (float(v) for v in target_box)
        if not (np.isfinite([left, top, right, bottom]).all() and right > left and bottom > top):
            raise InvalidValueError(
                f"The target box {list(target_box)} of {label} has no area; it must be [left, top, right, bottom]."
            )
        lengths["bbox"] = max(right - left, bottom - top)
    distances = np.sqrt(((p - t) ** 2).sum(1))
    return PairRecord(
        name, category, images or (f"{name}:source", f"{name}:target"), tuple(distances.tolist()), lengths
    )


def pck(
    records: Iterable[PairRecord],
    protocol: Protocol,
    *,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> PckResult:
    """PCK of records by a protocol.

    Args:
        replicates: Of the bootstrap; 0 makes no intervals.
        seed: Of the bootstrap: equal records give equal intervals.

    Raises:
        InvalidValueError: There is no record, or a record lacks the protocol's reference length.

    Example:
        >>> from diffeat.tasks.correspondence.protocol import get_protocol
        >>> record = record_pair([(0, 0), (9, 0)], [(0, 3), (0, 0)], target_size=(80, 60), target_box=(0, 0, 40, 20))
        >>> record.distances
        (3.0, 9.0)
        >>> pck([record], get_protocol("spair")).value  # of two points one is within a tenth of 40 pixels
        50.0
    """
    rows = list(records)
    if not rows:
        raise InvalidValueError("There is no pair to score.")
    for row in rows:
        if protocol.reference not in row.lengths:
            raise InvalidValueError(
                f"Pair {row.name!r} has no target box, which protocol {protocol.name!r} needs. "
                "Use a protocol with reference='image'."
            )
    counts = np.array([len(r.distances) for r in rows], dtype=np.float64)
    correct = np.stack([_correct(rows, protocol, alpha) for alpha in protocol.alphas])
    names = sorted({r.category for r in rows})
    of = np.array([names.index(r.category) for r in rows])
    categories = {name: _score(correct[:, of == i], counts[of == i], protocol.alphas) for i, name in enumerate(names)}
    overall = _score(correct, counts, protocol.alphas)
    for alpha in protocol.alphas:
        for kind in ("image", "point"):
            mean = float(np.mean([c.values[alpha][kind] for c in categories.values()]))
            overall.values[alpha][f"category-{kind}"] = mean
    spreads = {}
    if replicates:
        spreads = _spreads(rows, correct, counts, of, protocol, replicates, confidence, seed)
    return PckResult(protocol, overall, categories, spreads, confidence, tuple(notes))


def curve(records: Iterable[PairRecord], protocol: Protocol, alphas: Sequence[float]) -> list[float]:
    """PCK in percent at many thresholds, by the protocol's average."""
    scored = pck(records, protocol.replace(alphas=tuple(alphas)), replicates=0)
    return [scored[a] for a in alphas]


def _correct(rows: Sequence[PairRecord], protocol: Protocol, alpha: float) -> NDArray[np.float64]:
    def count(row: PairRecord) -> int:
        limit = alpha * row.lengths[protocol.reference]
        distances = np.asarray(row.distances)
        return int((distances <= limit).sum() if protocol.inclusive else (distances < limit).sum())

    return np.array([count(row) for row in rows], dtype=np.float64)


def _score(correct: NDArray, counts: NDArray, alphas: Sequence[float]) -> Score:
    values = {
        alpha: {
            "image": float(100 * (correct[i] / counts).mean()),
            "point": float(100 * correct[i].sum() / counts.sum()),
        }
        for i, alpha in enumerate(alphas)
    }
    return Score(values, len(counts), int(counts.sum()))


def _spreads(
    rows: Sequence[PairRecord],
    correct: NDArray,
    counts: NDArray,
    of: NDArray,
    protocol: Protocol,
    replicates: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[float, Interval]]:
    """Of both of the protocol's averages at every alpha, in percent."""
    groups = of if protocol.average.startswith("category") else np.zeros_like(of)
    member = groups[:, None] == np.arange(groups.max() + 1)
    units = np.stack([*correct, counts, *(correct / counts), np.ones_like(counts)], axis=1)[:, :, None]
    units = (units * member[:, None, :]).reshape(len(rows), -1)
    sums = resampled(units, groups=[r.images for r in rows], replicates=replicates, seed=seed)
    by_point, by_image = sums.reshape(len(sums), 2, len(protocol.alphas) + 1, -1).swapaxes(0, 1)
    spreads = {}
    for average in protocol.averages:
        some = by_point if average.endswith("point") else by_image
        with np.errstate(invalid="ignore"):  # a replicate may miss a category
            shares = 100 * np.nanmean(some[:, :-1] / some[:, -1:], axis=2)
        spreads[average] = {a: interval_of(shares[:, i], confidence) for i, a in enumerate(protocol.alphas)}
    return spreads
