"""Extract pictures into a feature store: sharded, resumable, repairing, with the failures listed.

The list of pictures is cut into shards by position. A run that was stopped anywhere therefore goes on with the same
shards and ends with the same bytes as a run that was never stopped. A picture that fails leaves its place in the shard
empty and is tried again next time. A picture counts as present if it is stored with the same content and the same text,
in a shard that is whole; pictures of a damaged shard are extracted again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from diffeat.errors import DiffeatError, InvalidValueError, StoreError, shown
from diffeat.features import FeatureMap, Picture, Source
from diffeat.features.picture import ImageLike, legible
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.storage.store import Identity


@dataclass
class Summary:
    """What a run did: names of pictures extracted, already there, and failed (with the reason)."""

    extracted: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """A picture to extract, and what it is stored as."""

    picture: Picture
    identity: Identity


def extract_to_store(
    source: Source[FeatureMap],
    pictures: Sequence[ImageLike],
    store: FeatureStore,
    prompts: str | Sequence[str | None] | None = None,
    *,
    replace: bool = False,
    shard_size: int = 16,
    progress: Progress = silent,
) -> Summary:
    """Extract pictures into ``store``, going on where an earlier run stopped.

    Args:
        source: Runs the recipe that the store was made for.
        pictures: Paths, named as they are given, or :class:`~diffeat.features.Picture` objects.
        prompts: One text for all, or one per picture; goes through the recipe's template.
        replace: Extract pictures anew that are stored with another content or text; these are refused otherwise.
        shard_size: Pictures per shard; a shard is the unit of resuming.
        progress: How to show the pictures go by.

    Returns:
        What was done. Pictures that failed are listed, not raised.

    Raises:
        StoreError: A picture is stored with another content or text (nothing is extracted then), or the store cannot be
            written (complete shards stay).
        InvalidValueError: Two of the pictures have one name, or there are not as many prompts as pictures.
        NonFiniteError: Features do not fit the store's dtype.
    """
    summary = Summary()
    jobs = _jobs(source, pictures, prompts, summary)
    todo = _shards(store, jobs, shard_size, summary, replace=replace)
    with_bar = iter(progress(range(sum(map(len, todo.values()))), total=None, desc="extract"))
    with source.session():
        for position, shard in todo.items():
            _run(source, store, position, shard, summary, lambda: next(with_bar, None))
    next(with_bar, None)
    return summary


def _jobs(
    source: Source[FeatureMap],
    pictures: Sequence[ImageLike],
    prompts: str | Sequence[str | None] | None,
    summary: Summary,
) -> list[_Job | None]:
    """What to extract, by position; ``None`` for what cannot be read and what stands twice in the list."""
    if prompts is None or isinstance(prompts, str):
        prompts = [prompts] * len(pictures)
    if len(prompts) != len(pictures):
        raise InvalidValueError(f"There are {len(pictures)} images and {len(prompts)} prompts: give one per image.")
    jobs: list[_Job | None] = []
    by_name: dict[str, Identity] = {}
    for given, prompt in zip(pictures, prompts, strict=True):
        name = given.name if isinstance(given, Picture) else legible(str(given))
        try:
            picture = Picture.of(given, source.recipe.text_for(prompt) if prompt else None)
            text = source.recipe.prompt if picture.text is None else picture.text
            identity = Identity(picture.digest, text)
            vars(picture).pop("image", None)  # opened again when its turn comes
        except (DiffeatError, OSError) as error:
            summary.failed[name] = str(error)
            jobs.append(None)
            continue
        first = by_name.setdefault(picture.name, identity)
        if first != identity:
            what = "texts" if first.digest == identity.digest else "contents"
            raise InvalidValueError(f"Two pictures with different {what} are named {picture.name}: a store holds one.")
        jobs.append(_Job(picture, identity) if first is identity else None)
    return jobs


def _shards(
    store: FeatureStore, jobs: Sequence[_Job | None], shard_size: int, summary: Summary, *, replace: bool
) -> dict[int, list[_Job]]:
    """What is left to do of every shard, by its position."""
    stored = store.identities(partial=True)
    changed = [job for job in jobs if job and stored.get(job.picture.name, job.identity) != job.identity]
    if changed and not replace:
        raise StoreError(_refusal(store, changed, stored))
    same = store.whole(job.picture.name for job in jobs if job and stored.get(job.picture.name) == job.identity)
    shards: dict[int, list[_Job]] = {}
    for number, job in enumerate(jobs):
        if job is None:
            continue
        if job.picture.name in same:
            summary.present.append(job.picture.name)
        else:
            shards.setdefault(number // shard_size, []).append(job)
    return shards


def _refusal(store: FeatureStore, changed: Sequence[_Job], stored: dict[str, Identity]) -> str:
    def difference(job: _Job) -> str:
        name, there = job.picture.name, stored[job.picture.name]
        if there.digest != job.identity.digest:
            return f"{name} (the file has changed)"
        return f"{name} (text {shown(there.text)} there, {shown(job.identity.text)} here)"

    more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
    return (
        f"The store {store.path} holds {len(changed)} of these pictures with another content or text: "
        f"{', '.join(map(difference, changed[:3]))}{more}. Nothing was extracted. Write to another folder, or let "
        "`extract --replace` (replace=True in Python) replace them; all others stay as they are."
    )


def _run(
    source: Source[FeatureMap],
    store: FeatureStore,
    position: int,
    jobs: Iterable[_Job],
    summary: Summary,
    tick: Callable[[], object],
) -> None:
    def failed(name: str, error: DiffeatError) -> None:
        summary.failed[name] = str(error)
        tick()

    by_name = {job.picture.name: job for job in jobs}
    features: list[FeatureMap] = []
    for feature in source.stream((job.picture for job in by_name.values()), on_error=failed):
        maps = {name: values.cpu() for name, values in feature.activations.items()}
        features.append(replace(feature, activations=maps, digest=by_name[feature.image].identity.digest))
        tick()
    if features:
        texts = [by_name[feature.image].identity.text for feature in features]
        store.write_shard(features, texts, position=position)
        summary.extracted += [feature.image for feature in features]
