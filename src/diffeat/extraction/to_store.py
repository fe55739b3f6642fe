"""Extract files into a feature store: sharded, resumable, with the failures listed.

The list of files is cut into shards by position, and a shard's name is a hash of the pictures it should hold. A run
that was stopped anywhere therefore finds the same shards again, skips the complete ones and ends with the same bytes
as a run that was never stopped. A picture that fails leaves its place in the shard empty and is tried again next time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffeat.errors import DiffeatError, ImageError
from diffeat.extraction.extractor import Extractor
from diffeat.extraction.pictures import Picture, load_picture
from diffeat.geometry import file_digest
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureMap, FeatureStore


@dataclass
class Summary:
    """What a run did: names of pictures extracted, already there, and failed (with the reason)."""

    extracted: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    name: str
    path: Path
    digest: str
    prompt: str | None


def extract_to_store(
    extractor: Extractor,
    paths: Sequence[Path],
    store: FeatureStore,
    prompts: str | Sequence[str | None] | None = None,
    *,
    shard_size: int = 16,
    progress: Progress = silent,
) -> Summary:
    """Extract ``paths`` into ``store``, going on where an earlier run stopped.

    Args:
        extractor: Runs the recipe that the store was made for.
        paths: Picture files; names in the store are relative to their common folder.
        prompts: One text for all, or one per path.
        shard_size: Pictures per shard. A run resumes only with the same size and list as before; other shards that
            hold the same pictures are used as they are.

    Returns:
        What was done. Pictures that failed are listed, not raised.

    Raises:
        StoreError: The store cannot be written.
        InvalidValueError: The recipe does not suit the model.
    """
    summary = Summary()
    jobs = _jobs(paths, prompts, summary)
    shards = [jobs[i : i + shard_size] for i in range(0, len(jobs), shard_size)]
    known = set(store.keys())
    todo: list[tuple[str, list[_Job]]] = []
    for shard in shards:
        name = _shard_name(shard)
        missing = [j for j in shard if _key(j) not in known]
        summary.present += [j.name for j in shard if _key(j) in known]
        if missing:
            todo.append((name, shard if not store.has_shard(name) else shard))
    for name, shard in todo:
        pass
    return summary


def _key(job: _Job) -> str:
    return job.digest
