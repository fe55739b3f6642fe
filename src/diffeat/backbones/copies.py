"""Which models are on this disk, in a mirror folder or in the cache of the hub; nothing is fetched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from diffeat.backbones.folder import INDEX, shards_of, weights_of
from diffeat.backbones.hub import MIRROR, mirrored, parts_of
from diffeat.errors import ModelError


@dataclass(frozen=True)
class Copy:
    """A pipeline on this disk: its folder, bytes, and the parts that it lacks."""

    path: Path
    size: int
    missing: tuple[str, ...]


def copy_of(place: str, revision: str | None = None) -> Copy | None:
    """What is on this disk of a pipeline: a folder, in the mirror or in the cache of the hub."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(place) if (Path(place) / INDEX).is_file() else mirrored(place, revision)
    if folder is None and place.count("/") == 1:
        index = try_to_load_from_cache(place, INDEX, revision=revision)
        folder = Path(index).parent if isinstance(index, str) else None
    if folder is None or not (folder / INDEX).is_file():
        return None
    files = [file for file in folder.rglob("*") if file.is_file() and ".cache" not in file.relative_to(folder).parts]
    missing = [part for part in parts_of(folder / INDEX) if not _is_whole(folder / part)]
    return Copy(folder, sum(file.stat().st_size for file in files), tuple(missing))


def in_cache() -> list[str]:
    """Hub ids of the pipelines in the cache of the hub and in the mirror."""
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE).glob(f"models--*--*/snapshots/*/{INDEX}")
    ids = {"/".join(index.parents[2].name.split("--")[1:3]) for index in cached}
    mirror = os.environ.get(MIRROR)
    if mirror:
        root = Path(mirror).expanduser()
        ids |= {index.parent.relative_to(root).as_posix() for index in root.glob(f"*/*/{INDEX}")}
    return sorted(ids)


def _is_whole(part: Path) -> bool:
    """Whether a part's folder is there, with weights if it is a network."""
    if not part.is_dir():
        return False
    files = [file for file in part.iterdir() if weights_of(file.name)]
    return not (part / "config.json").exists() or any(map(_is_whole_file, files))


def _is_whole_file(weights: Path) -> bool:
    """Whether a file of weights is all of them: no shard, or an index whose shards are all there."""
    if weights.suffix != ".json":
        return "-of-" not in weights.name
    try:
        return bool(shards_of(weights))
    except ModelError:
        return False
