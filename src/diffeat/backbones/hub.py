"""Where models lie, and how they come here: a mirror folder, the cache of the hub, the hub.

A mirror is a folder that holds repositories as ``owner/name``, or models by their name here, as ``diffeat models get
--to FOLDER`` or ``hf download --local-dir`` write them; the environment variable ``DIFFEAT_MODELS`` names it, and it
goes before the cache and the hub. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean
everywhere.

Of a repository only what is used is fetched: no safety checker, weights in one format and one variant. What was fetched
by halves is gone on with, and by :func:`fetch` compared with the sizes and SHA-256 digests that the hub tells.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diffeat.backbones.files import first_line
from diffeat.backbones.folder import INDEX, UNUSED, chosen_variant, weights_of
from diffeat.errors import ModelError
from diffeat.progress import Progress, silent

MIRROR = "DIFFEAT_MODELS"
_PLAIN = (".json", ".txt", ".model", ".jinja")


class UnreachableError(ModelError):
    """A repository that cannot be fetched; the message is the bare reason."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, as the hub tells it.

    Attributes:
        name: Its path in the repository.
        size: Bytes, if the hub says so.
        sha256: Digest, of large files.
    """

    name: str
    size: int | None = None
    sha256: str | None = None

    def fault(self, folder: Path) -> str | None:
        """What is wrong with the copy in a folder; ``None`` if nothing is."""
        file = folder / self.name
        if not file.is_file():
            return "is missing"
        if self.size is not None and file.stat().st_size != self.size:
            return f"has {file.stat().st_size:,} bytes, not {self.size:,}"
        if self.sha256 is not None:
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != self.sha256:
                    return "has another SHA-256 digest"
        return None


@dataclass(frozen=True)
class Download:
    """What is to be fetched of one repository.

    Attributes:
        place: Hub id.
        revision: The commit.
        files: What is used of it.
        left: Bytes of all its other files.
    """

    place: str
    revision: str
    files: tuple[RemoteFile, ...]
    left: int

    @property
    def size(self) -> int:
        """Bytes in all, of the files whose size is known."""
        return sum(file.size or 0 for file in self.files)


@dataclass(frozen=True)
class Copy:
    """A pipeline on this disk.

    Attributes:
        path: Its folder.
        size: Bytes.
        missing: Parts that it lacks.
    """

    path: Path
    size: int
    missing: tuple[str, ...]


def mirrored(name: str) -> Path | None:
    """The folder of a repository, or of a model by its name, in the mirror."""
    mirror = os.environ.get(MIRROR)
    if not mirror or os.path.isabs(name) or name.startswith((".", "~")) or ".." in PurePosixPath(name).parts:
        return None
    folder = Path(mirror).expanduser() / name
    return folder if folder.is_dir() else None


def near(name: str) -> str:
    """The folder of a repository in the mirror, else the name as it is: for other libraries' loaders."""
    return name if os.path.lexists(name) else str(mirrored(name) or name)


def offline() -> bool:
    """Whether the hub is not asked, or its name cannot even be resolved: then its client's minute of retries is
    spared."""
    import socket
    from urllib.parse import urlparse

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, None)
    except OSError:
        return True
    return False


def fetch_file(
    place: str, file: str, revision: str | None = None, *, into: Path | None = None, again: bool = False
) -> Path:
    """One file of a repository: in the cache of the hub or in a folder, fetched if need be.

    Args:
        into: A folder to lie in, in place of the cache.
        again: Fetch it though it is there.

    Raises:
        UnreachableError: It cannot be had; says why.
    """
    from huggingface_hub import hf_hub_download

    held = mirrored(place)
    if held is not None and into is None and (held / file).is_file():
        return held / file
    try:
        found = hf_hub_download(
            place, file, revision=revision, local_dir=into, force_download=again, local_files_only=offline()
        )
        return Path(found)
    except Exception as error:  # the hub client has no common base for its errors
        raise UnreachableError(_reason(error, place, file)) from error


def plan(place: str, revision: str | None = None, variant: str | None = None, *, weights: bool = True) -> Download:
    """What is used of a repository.

    Args:
        variant: Of the weights; by default the plain ones, or the variant that is there alone.
        weights: Whether weights are.

    Raises:
        UnreachableError: The hub does not say.
        ModelError: It has no such variant.
    """
    from huggingface_hub import HfApi

    if offline():
        raise UnreachableError(_absent())
    try:
        info = HfApi().model_info(place, revision=revision, files_metadata=True)
    except Exception as error:  # the hub client has no common base for its errors
        raise UnreachableError(_reason(error, place)) from error
    files = {
        file.rfilename: RemoteFile(file.rfilename, file.size, getattr(file.lfs, "sha256", None))
        for file in info.siblings or ()
    }
    commit = str(info.sha)
    parts = _parts(_index(fetch_file(place, INDEX, revision or None))) if INDEX in files else [""]
    names = [name for name in needed(files, parts, variant, place) if weights or not weights_of(Path(name).name)]
    left = sum(file.size or 0 for name, file in files.items() if name not in set(names))
    return Download(place, commit, tuple(files[name] for name in names), left)


def fetch(download: Download, *, into: Path | None = None, check: bool = False, progress: Progress = silent) -> Path:
    """Fetch what a plan says, going on where an earlier try stopped.

    Args:
        into: A folder to lie in, in place of the cache of the hub.
        check: Compare sizes and digests of all files with what the hub says, and fetch those that differ again.

    Returns:
        The folder.

    Raises:
        UnreachableError: A file cannot be fetched.
        ModelError: A file that was fetched again still differs.
    """
    folder = into or Path()
    for file in progress(download.files, total=len(download.files), desc=f"fetching {download.place}"):
        path = fetch_file(download.place, file.name, download.revision, into=into)
        folder = path.parents[file.name.count("/")]
        if check and file.fault(folder):
            fetch_file(download.place, file.name, download.revision, into=into, again=True)
            fault = file.fault(folder)
            if fault:
                raise ModelError(
                    f"{file.name} of {download.place} {fault}, though it was fetched again: the repository or what "
                    "lies between is damaged. Try another mirror (HF_ENDPOINT)."
                )
    return folder


def snapshot(place: str, revision: str | None = None, variant: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a repository, with what is used of it; what the cache holds where the hub cannot be asked.

    Arguments as of :func:`plan`.

    Raises:
        UnreachableError: It is not on this machine and cannot be fetched.
        ModelError: It has no such variant.
    """
    held = mirrored(place)
    if held is not None:
        return held
    index = fetch_file(place, INDEX, revision)
    try:
        return fetch(plan(place, revision, variant, weights=weights))
    except UnreachableError:
        return index.parent  # what is there may be enough; the folder is looked through next


def needed(files: Iterable[str], parts: Collection[str], variant: str | None, place: str) -> list[str]:
    """The files that are used of a repository.

    Args:
        files: All of them.
        parts: Folders of the parts of a pipeline; ``""`` for a repository that is one network.
        variant: As in :func:`plan`.

    Raises:
        ModelError: There is no such variant.

    Example:
        >>> files = ["model_index.json", "unet/config.json", "unet/model.safetensors", "unet/model.bin", "v1.ckpt"]
        >>> needed(files, ["unet"], None, "a/b")
        ['model_index.json', 'unet/config.json', 'unet/model.safetensors']
    """
    inside: dict[str, list[str]] = {part: [] for part in parts}
    for file in files:
        folder, _, name = file.rpartition("/")
        if folder in inside:
            inside[folder].append(name)
    weights = {part: {name: kind for name in names if (kind := weights_of(name))} for part, names in inside.items()}
    held = {part: {variant for variant, _ in kinds.values()} for part, kinds in weights.items() if kinds}
    chosen = chosen_variant(place, held, variant)
    names = [INDEX] if "" not in parts else []
    for part, kinds in weights.items():
        own = chosen if chosen in held.get(part, ()) else ""
        formats = {form for kind, form in kinds.values() if kind == (own or "")}
        kept = ((own or ""), "safetensors" if "safetensors" in formats else "bin")
        for name in inside[part]:
            plain = name not in kinds and name.endswith(_PLAIN) and ".index." not in name
            if plain or kinds.get(name) == kept:
                names.append(f"{part}/{name}".lstrip("/"))
    return names


def copy_of(place: str, revision: str | None = None) -> Copy | None:
    """What is on this disk of a pipeline: a folder, in the mirror or in the cache of the hub; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(place) if (Path(place) / INDEX).is_file() else mirrored(place)
    if folder is None and place.count("/") == 1:
        index = try_to_load_from_cache(place, INDEX, revision=revision)
        folder = Path(index).parent if isinstance(index, str) else None
    if folder is None or not (folder / INDEX).is_file():
        return None
    files = [file for file in folder.rglob("*") if file.is_file() and ".cache" not in file.relative_to(folder).parts]
    missing = [part for part in _parts(_index(folder / INDEX)) if not _is_whole(folder / part)]
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


def _index(path: Path) -> Mapping[str, object]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # the folder is looked through with all care when it is loaded
    return index if isinstance(index, dict) else {}


def _parts(index: Mapping[str, object]) -> list[str]:
    return [
        part
        for part, value in index.items()
        if isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, str) for v in value)
        and part.isidentifier()
        and part not in UNUSED
    ]


def _is_whole(part: Path) -> bool:
    """Whether a part's folder is there, with weights if it is a network."""
    if not part.is_dir():
        return False
    names = [file.name for file in part.iterdir()]
    return "config.json" not in names or any(weights_of(name) for name in names)


def _absent() -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "no connection to the hub"


def _reason(error: BaseException, place: str, file: str | None = None) -> str:
    """Why the hub does not give something, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return (
            f"it is gated: accept its licence at {constants.ENDPOINT}/{place} and log in (`hf auth login`, or HF_TOKEN)"
        )
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private: log in (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        return _absent() if offline() else "the hub does not answer"
    if isinstance(error, EntryNotFoundError):
        return f"it has no {file}"
    return first_line(error)
