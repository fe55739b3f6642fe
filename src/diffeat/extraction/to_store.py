"""Extract files into a feature store: sharded, resumable, with the failures listed.

The list of files is cut into shards by position, and a shard's name is a hash of the pictures it should hold. A run
that was stopped anywhere therefore finds the same shards again, skips the complete ones and ends with the same bytes
as a run that was never stopped. A picture that fails leaves its place in the shard empty and is tried again next time.
A file that changed since, or that comes with another text, is extracted anew together with its shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from diffeat.errors import DiffeatError, ImageError, InvalidValueError
from diffeat.features import FeatureMap, Picture, Source
from diffeat.geometry import file_digest, open_image
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore


@dataclass
class Summary:
    """What a run did: names of pictures extracted, already there, and failed (with the reason)."""

    extracted: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """A picture to extract; ``key`` identifies its content and its text."""

    path: Path
    key: str
    text: str | None

    @property
    def entry(self) -> tuple[str, str]:
        return self.path.as_posix(), self.key

    def picture(self) -> Picture:
        return Picture(self.path.as_posix(), lambda: self.path, text=self.text, digest=self.key)


@dataclass(frozen=True)
class _Shard:
    name: str
    position: int
    jobs: tuple[_Job, ...]


def extract_to_store(
    source: Source[FeatureMap],
    paths: Sequence[Path],
    store: FeatureStore,
    prompts: str | Sequence[str | None] | None = None,
    *,
    shard_size: int = 16,
    progress: Progress = silent,
) -> Summary:
    """Extract ``paths`` into ``store``, going on where an earlier run stopped.

    Args:
        source: Runs the recipe that the store was made for.
        paths: Picture files; the store names them by their paths as given.
        prompts: One text for all, or one per path.
        shard_size: Pictures per shard; a shard is the unit of resuming.
        progress: How to show the pictures go by.

    Returns:
        What was done. Pictures that failed are listed, not raised.

    Raises:
        StoreError: The store cannot be written; complete shards stay.
        NonFiniteError: Features do not fit the store's dtype.
    """
    summary = Summary()
    jobs = _jobs(source, paths, prompts)
    _drop_changed(store, jobs)
    todo = list(_missing(store, _cut(jobs, shard_size), summary))
    with_bar = iter(progress(range(sum(len(s.jobs) for s in todo)), total=None, desc="extract"))
    with source.session():
        for shard in todo:
            _run(source, store, shard, summary, lambda: next(with_bar, None))
    next(with_bar, None)
    return summary


def _jobs(source: Source[FeatureMap], paths: Sequence[Path], prompts: str | Sequence[str | None] | None) -> list[_Job]:
    if prompts is None or isinstance(prompts, str):
        prompts = [prompts] * len(paths)
    if len(prompts) != len(paths):
        raise InvalidValueError(f"There are {len(paths)} images and {len(prompts)} prompts: give one per image.")
    jobs = []
    for path, prompt in zip(paths, prompts, strict=True):
        text = source.recipe.text_for(prompt) if prompt else None
        try:
            key = file_digest(path)
        except (ImageError, OSError):
            key = "unreadable"
        if text is not None and text != source.recipe.prompt:
            key = hashlib.sha256(f"{key}|{text}".encode()).hexdigest()
        jobs.append(_Job(path, key, text))
    return jobs


def _cut(jobs: list[_Job], shard_size: int) -> list[_Shard]:
    shards = []
    for position, start in enumerate(range(0, len(jobs), shard_size)):
        part = tuple(jobs[start : start + shard_size])
        name = hashlib.sha256("\n".join("|".join(job.entry) for job in part).encode()).hexdigest()[:16]
        shards.append(_Shard(name, position, part))
    return shards


def _drop_changed(store: FeatureStore, jobs: list[_Job]) -> None:
    keys = dict(job.entry for job in jobs)
    changed = {shard for shard, name, key in store.entries() if keys.get(name, key) != key}
    for shard in sorted(changed):
        store.remove_shard(shard)


def _missing(store: FeatureStore, shards: list[_Shard], summary: Summary) -> Iterator[_Shard]:
    """Shards with work left; pictures that another shard holds are taken out of them."""
    homes = {(name, key): shard for shard, name, key in store.entries()}
    for shard in shards:
        own = [job for job in shard.jobs if homes.get(job.entry, shard.name) == shard.name]
        absent = [job for job in own if job.entry not in homes]
        if absent and store.has_shard(shard.name):
            # These failed before. The shard is made again only if one of them can be read by now.
            for job in list(absent):
                try:
                    open_image(job.path)
                except DiffeatError as error:
                    summary.failed[job.entry[0]] = str(error)
                    absent.remove(job)
        waiting = own if absent else []
        summary.present += [j.entry[0] for j in shard.jobs if j.entry in homes and j not in waiting]
        if waiting:
            yield replace(shard, jobs=tuple(waiting))


def _run(
    source: Source[FeatureMap], store: FeatureStore, shard: _Shard, summary: Summary, tick: Callable[[], object]
) -> None:
    def failed(name: str, error: DiffeatError) -> None:
        summary.failed[name] = str(error)
        tick()

    features = []
    for feature in source.stream((job.picture() for job in shard.jobs), on_error=failed):
        features.append(replace(feature, activations={k: v.cpu() for k, v in feature.activations.items()}))
        tick()
    if features:
        store.write_shard(shard.name, features, position=shard.position)
        summary.extracted += [feature.image for feature in features]
