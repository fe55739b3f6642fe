"""PCK of networks on pairs, from maps that are there."""

from __future__ import annotations

from pathlib import Path

from diffeat.datasets.pairs import PairDataset
from diffeat.errors import DatasetError
from diffeat.evaluation.features import Features, Loads
from diffeat.extraction.joins.aggregation import AggregationNetwork
from diffeat.extraction.joins.hyperfeatures import fuse_maps
from diffeat.progress import silent
from diffeat.tasks.correspondence.evaluate import Scorer
from diffeat.tasks.correspondence.keypoints import PairRecord, PckResult, pck
from diffeat.tasks.correspondence.protocol import Protocol
from diffeat.training.hyperfeatures.maps import Described, MapSource


def score(pairs: PairDataset, features: Loads, protocol: Protocol, keep: int = 24) -> PckResult:
    """PCK of whatever gives features of pictures by path."""
    found, notes = records(pairs, features, protocol, keep)
    return pck(found, protocol, notes=[*pairs.notes, *notes])


def records(
    pairs: PairDataset, features: Loads, protocol: Protocol, keep: int = 24
) -> tuple[list[PairRecord], list[str]]:
    """The errors of every pair that can be scored, and notes on those that cannot."""
    scorer = Scorer(Features(features, keep=keep), protocol, {}, keep=keep)
    predictions = scorer.run(pairs, silent)
    if not predictions:
        raise DatasetError(f"No pair of {pairs.name} can be scored ({', '.join(set(scorer.tally.left_out.values()))}).")
    return [p.record for p in predictions], scorer.tally.notes()


def score_network(
    pairs: PairDataset,
    network: AggregationNetwork,
    source: MapSource,
    protocol: Protocol,
    grid: tuple[int, int] | None = None,
) -> PckResult:
    """PCK of a network's descriptors; each picture is described once, as far as memory for a class of them goes."""
    by_category: dict[str, set[Path]] = {}  # pairs are scored category by category
    for pair in pairs:
        by_category.setdefault(pair.category, set()).update((pair.source, pair.target))
    most = min(256, max(map(len, by_category.values()), default=1))
    training = network.training
    network.eval()
    try:
        described = Described(source, lambda maps: fuse_maps(network, maps.layers, maps.grid or grid))
        return score(pairs, described, protocol, keep=most)
    finally:
        network.train(training)
