"""Extract pictures into a feature store: sharded, resumable, repairing, with the failures listed.

The list of pictures is cut into shards by position. A run that was stopped anywhere therefore goes on with the same
shards and ends with the same bytes as a run that was never stopped. A picture that fails leaves its place in the shard
empty and is tried again next time. A picture counts as present if it is stored with the same content and the same text,
in a shard that is whole; pictures of a damaged shard are extracted again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from typing import Self

from diffeat.errors import DiffeatError, InvalidValueError, StoreError, shown
from diffeat.features import FeatureMap, Picture, Source
from diffeat.features.picture import ImageLike, legible
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore, Identity
from diffeat.storage.shard import Maps

#: Pictures that may wait to be packed.
_WAITING = 4


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
    texts = {job.picture.name: job.identity for jobs in todo.values() for job in jobs}
    left = {position: len(jobs) for position, jobs in todo.items()}
    place = {job.picture.name: position for position, jobs in todo.items() for job in jobs}
    bar = iter(progress(range(len(place)), total=None, desc="extract"))
    with _Writer(store, summary) as writer:

        def done(name: str) -> None:
            left[place[name]] -= 1
            if not left[place[name]]:
                writer.end(place[name])
            next(bar, None)

        def failed(name: str, error: DiffeatError) -> None:
            summary.failed[name] = str(error)
            done(name)

        for position, shard in todo.items():
            for job in shard:
                job.picture.apart = position  # so that a run that goes on makes the same calls
        missing = (job.picture for shard in todo.values() for job in shard)
        for feature in source.stream(missing, on_error=failed):
            maps = {name: values.cpu() for name, values in feature.activations.items()}
            identity = texts[feature.image]
            writer.add(replace_fields(feature, activations=maps, digest=identity.digest), identity.text)
            done(feature.image)
    next(bar, None)
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


class _Writer:
    """Packs pictures and writes shards on a thread of its own, in order, while the next ones are computed.

    What goes wrong there is raised by the next call, or at the end. Shards that are complete stay.
    """

    def __init__(self, store: FeatureStore, summary: Summary) -> None:
        self._store, self._summary = store, summary
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="diffeat-write")
        self._waiting: deque[Future[None]] = deque()
        self._packed: dict[str, Maps] = {}  # of the shard that is being filled; used on the thread only
        self._failed = False

    def add(self, feature: FeatureMap, text: str) -> None:
        """Add a picture to the shard that is being filled."""
        self._do(self._pack, feature, text)

    def end(self, position: int) -> None:
        """Write the shard."""
        self._do(self._write, position)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=kind is not None)
        while self._waiting and kind is None:
            self._waiting.popleft().result()

    def _do(self, act: Callable[..., None], *arguments: object) -> None:
        while len(self._waiting) > _WAITING or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._unless_failed, act, *arguments))

    def _unless_failed(self, act: Callable[..., None], *arguments: object) -> None:
        if self._failed:  # a shard without one of its pictures is not written
            return
        try:
            act(*arguments)
        except BaseException:
            self._failed = True
            raise

    def _pack(self, feature: FeatureMap, text: str) -> None:
        self._packed[feature.image] = self._store.packed(feature, text)

    def _write(self, position: int) -> None:
        packed, self._packed = self._packed, {}
        if packed:
            self._store.write_packed(list(packed.values()), position=position)
            self._summary.extracted += packed
