"""Extract pictures into a feature store: sharded, resumable, repairing, with the failures listed.

The list of pictures is cut into shards by position. A run that was stopped anywhere, or that many processes share,
therefore makes the same shards and ends with the same bytes as one that did all by itself without a stop. A picture
that fails leaves its place in the shard empty and is tried again next time. A picture counts as present if it is stored
with the same content and the same text, in a shard that is whole; pictures of a damaged shard are extracted again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from pathlib import Path

from diffeat.errors import DiffeatError, InvalidValueError, StoreError, shown
from diffeat.extraction.estimate import check_rest
from diffeat.extraction.filling import Fills, Row, Unit, fill
from diffeat.features import FeatureMap, Picture, Source, Spec
from diffeat.features.picture import ImageLike, legible
from diffeat.features.source import texts_for
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore, Identity


@dataclass
class Summary:
    """What a run did: names of pictures extracted, already there, and failed (with the reason)."""

    extracted: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


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
        source: Runs the recipe that the store was made for; workers do (:class:`diffeat.distributed.Workers`) where it
            has some.
        pictures: Paths, named as they are given, or :class:`~diffeat.features.Picture` objects.
        prompts: One text for all, or one per picture; goes through the recipe's template.
        replace: Extract pictures anew that are stored with another content or text; these are refused otherwise.
        shard_size: Pictures per shard; a shard is the unit of resuming.
        progress: How to show the pictures go by.

    Returns:
        What was done. Pictures that failed are listed, not raised.

    Raises:
        StoreError: The store is of another recipe or model, or a picture is stored with another content or text
            (nothing is extracted then); or the store cannot be written (complete shards stay).
        InvalidValueError: Two of the pictures have one name, or there are not as many prompts as pictures.
        NonFiniteError: Features do not fit the store's dtype.
    """
    summary, recipe = Summary(), source.recipe
    store.head.require(with_fields(store.head, recipe=recipe.content(), recipe_hash=recipe.hash), store.path)
    units = plan_units(source.recipe, pictures, store, prompts, summary, replace=replace, shard_size=shard_size)
    extract_units(source, store, units, summary, progress)
    return summary


def extract_units(
    source: Source[FeatureMap],
    store: FeatureStore,
    units: Sequence[Unit],
    summary: Summary,
    progress: Progress = silent,
) -> None:
    """Do what :func:`plan_units` found to be left, and add to the summary what came of it."""
    if not units:
        return
    head = with_fields(store.head, weights=source.fingerprint)
    if FeatureStore.is_store(store.path):
        store.head.require(head, store.path)
    else:  # it is made by its first shard
        store.head = head
    count = sum(len(unit.pictures) for unit in units)
    bar = iter(progress(range(count), total=None, desc="extract"))

    def done(row: Row) -> None:
        if not summary.extracted and row.extracted and isinstance(source, Fills) and isinstance(store.path, Path):
            check_rest(row.bytes / len(row.extracted), count - len(row.extracted), store.path)
        summary.extracted += row.extracted
        summary.failed.update(row.failed)

    def step(pictures: int) -> None:
        for _ in range(pictures):
            next(bar, None)

    if isinstance(source, Fills):
        source.fill(store, units, done, step)
        place = {picture.name: i for i, picture in enumerate(p for unit in units for p in unit.pictures)}
        summary.extracted.sort(key=place.__getitem__)
    else:
        fill(source, store, units, done, step)
    next(bar, None)


def plan_units(
    recipe: Spec,
    pictures: Sequence[ImageLike],
    store: FeatureStore,
    prompts: str | Sequence[str | None] | None,
    summary: Summary,
    *,
    replace: bool = False,
    shard_size: int = 16,
) -> list[Unit]:
    """What is left to do; pictures that are there, and those that cannot be told, go into the summary.

    Arguments and errors as of :func:`extract_to_store`. Of files that
    the store holds, those are read whose size or time have changed; of others, none.
    """
    jobs = _jobs(recipe, pictures, prompts, summary)
    stored = store.identities([picture.name for picture in jobs if picture], partial=True)
    known = store.known({p.name: p.stamp or "" for p in jobs if p and p.name in stored})
    here: dict[str, Identity] = {}
    for number, picture in enumerate(jobs):
        if picture is not None and picture.name in stored:
            try:
                digest = known[picture.name].digest if picture.name in known else None
                here[picture.name] = _identity(recipe, picture, digest)
            except (DiffeatError, OSError) as error:
                summary.failed[picture.name] = str(error)
                jobs[number] = None
    changed = {name: identity for name, identity in here.items() if stored[name] != identity}
    if changed and not replace:
        raise StoreError(_refusal(store, changed, stored))
    same = store.whole(name for name in here if name not in changed)
    shards: dict[int, list[Picture]] = {}
    for number, picture in enumerate(jobs):
        if picture is None:
            continue
        if picture.name in same:
            summary.present.append(picture.name)
        else:
            shards.setdefault(number // shard_size, []).append(picture)
    return [Unit(position, tuple(shard)) for position, shard in shards.items()]


def _jobs(
    recipe: Spec, pictures: Sequence[ImageLike], prompts: str | Sequence[str | None] | None, summary: Summary
) -> list[Picture | None]:
    """What to extract, by position; ``None`` for what cannot be read and what stands twice in the list."""
    jobs: list[Picture | None] = []
    by_name: dict[str, Picture] = {}
    for given, prompt in zip(pictures, texts_for(prompts, len(pictures)), strict=True):
        name = given.name if isinstance(given, Picture) else legible(str(given))
        try:
            picture = Picture.of(given, recipe.text_for(prompt) if prompt else None)
            first = by_name.get(picture.name)
            if first is None:
                by_name[picture.name] = picture
                jobs.append(picture)
                continue
            one, other = _identity(recipe, first), _identity(recipe, picture)
        except (DiffeatError, OSError) as error:
            summary.failed[name] = str(error)
            jobs.append(None)
            continue
        if one != other:
            what = "texts" if one.digest == other.digest else "contents"
            raise InvalidValueError(f"Two pictures with different {what} are named {picture.name}: a store holds one.")
        jobs.append(None)
    return jobs


def _identity(recipe: Spec, picture: Picture, digest: str | None = None) -> Identity:
    """What a picture is; the file is read where its digest is not known."""
    digest = digest or picture.digest
    vars(picture).pop("image", None)  # opened again when its turn comes
    return Identity(digest, recipe.prompt if picture.text is None else picture.text)


def _refusal(store: FeatureStore, changed: Mapping[str, Identity], stored: Mapping[str, Identity]) -> str:
    def difference(name: str) -> str:
        there, here = stored[name], changed[name]
        if there.digest != here.digest:
            return f"{name} (the file has changed)"
        return f"{name} (text {shown(there.text)} there, {shown(here.text)} here)"

    more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
    return (
        f"The store {store.path} holds {len(changed)} of these pictures with another content or text: "
        f"{', '.join(map(difference, list(changed)[:3]))}{more}. Nothing was extracted. Write to another folder, or "
        "let `extract --replace` (replace=True in Python) replace them; all others stay as they are."
    )
