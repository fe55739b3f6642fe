"""Where models lie, and how they come here: a mirror folder, the cache of the hub, the hub.

A mirror is a folder that holds repositories as ``owner/name``, or models by their name here, as ``diffeat models get
--to FOLDER`` or ``hf download --local-dir`` write them; the environment variable ``DIFFEAT_MODELS`` names it. It goes
before the cache and the hub, unless a revision or variant is asked for that it does not have. ``HF_ENDPOINT``,
``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean everywhere.

Of a repository only what is used is fetched: no safety checker, weights in one format and one variant. What was fetched
by halves is gone on with, and by :func:`fetch` compared with the sizes and SHA-256 digests that the hub tells.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diffeat.backbones.files import first_line, is_path
from diffeat.backbones.folder import INDEX, UNUSED, check_folder, chosen_variant, weights_of
from diffeat.errors import ModelError, did_you_mean
from diffeat.progress import Progress, silent

MIRROR = "DIFFEAT_MODELS"
_PLAIN = (".json", ".txt", ".model", ".jinja")
#: Errors of the disk, which no other place mends.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}


class UnreachableError(ModelError):
    """A repository that cannot be fetched; the message is the bare reason."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, as the hub tells it: path, bytes (if it says so) and digest (of large files)."""

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
    """What is to be fetched of one repository at a commit: the files that are used, and the bytes of all its others."""

    place: str
    revision: str
    files: tuple[RemoteFile, ...]
    left: int

    @property
    def size(self) -> int:
        """Bytes in all, of the files whose size is known."""
        return sum(file.size or 0 for file in self.files)

    def absent(self, into: Path | None = None) -> int:
        """Bytes of the files that do not lie yet in a folder, or in the cache of the hub."""
        from huggingface_hub import try_to_load_from_cache

        def is_here(file: RemoteFile) -> bool:
            cached = try_to_load_from_cache(self.place, file.name, revision=self.revision) if into is None else None
            place = cached if isinstance(cached, str) else "" if into is None else into / file.name
            return os.path.isfile(place) and os.path.getsize(place) == file.size

        return sum(file.size or 0 for file in self.files if not is_here(file))


def mirrored(name: str, revision: str | None = None, variant: str | None = None) -> Path | None:
    """The folder of a repository, or of a model by its name, in the mirror: of the revision that is asked for, as the
    hub's client noted when it was fetched, and with some weights in the variant.
    """
    mirror = os.environ.get(MIRROR)
    if not mirror or os.path.isabs(name) or name.startswith((".", "~")) or ".." in PurePosixPath(name).parts:
        return None
    folder = Path(mirror).expanduser() / name
    if not folder.is_dir() or (revision is not None and not _is_of(folder, revision)):
        return None
    held = (weights_of(file.name) for depth in ("*", "*/*") for file in folder.glob(depth))
    return folder if variant is None or any(kind and kind[0] == variant for kind in held) else None


def _is_of(folder: Path, revision: str) -> bool:
    """Whether all files of a folder were fetched at this commit, by the notes of the hub's client."""
    notes = (folder / ".cache" / "huggingface" / "download").rglob("*.metadata")
    commits = {note.read_text(encoding="utf-8", errors="replace").partition("\n")[0] for note in notes}
    return len(commits) == 1 and len(revision) >= 7 and commits.pop().startswith(revision)


def near(name: str, revision: str | None = None) -> str:
    """The folder of a repository in the mirror, else the name as it is: for other libraries' loaders."""
    return name if os.path.lexists(name) else str(mirrored(name, revision) or name)


def near_part(name: str) -> str:
    """Likewise of a model's part, or a single model: a folder is looked through first."""
    place = near(name)
    if is_path(place):
        check_folder(Path(place))
    return place


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


def fetch_file(place: str, file: str, revision: str | None = None) -> Path:
    """One file of a repository: in the mirror or in the cache of the hub, fetched if need be."""
    held = mirrored(place, revision)
    return held / file if held is not None and (held / file).is_file() else _fetched(place, file, revision)


def fetch_folder(place: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The files of a repository that fit a pattern, in one folder; found and refused as by :func:`fetch_file`."""
    from huggingface_hub import snapshot_download

    held = mirrored(place, revision)
    if held is not None:
        return held
    try:
        found = snapshot_download(place, revision=revision, allow_patterns=list(patterns), local_files_only=offline())
        return Path(found)
    except Exception as error:  # the hub client has no common base for its errors
        raise _refused(error, place) from error


def _fetched(place: str, file: str, revision: str | None, *, into: Path | None = None, again: bool = False) -> Path:
    """One file of a repository in the cache of the hub or in a folder; errors as of :func:`fetch_file`."""
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(
            place, file, revision=revision, local_dir=into, force_download=again, local_files_only=offline()
        )
        return Path(found)
    except Exception as error:  # the hub client has no common base for its errors
        raise _refused(error, place, file, into) from error


def _refused(error: Exception, place: str, file: str | None = None, into: Path | None = None) -> ModelError:
    if isinstance(error, OSError) and error.errno in _DISK:
        what, where = f"{file} of {place}" if file else place, into or "the cache of the hub (HF_HOME)"
        return ModelError(f"{what} cannot be written to {where}: {error.strerror}.")
    lacks = "; the mirror folder has no such revision, variant or file" if mirrored(place) else ""
    return UnreachableError(why_not(error, place, file) + lacks)


def plan(
    place: str,
    revision: str | None = None,
    variant: str | None = None,
    *,
    weights: bool = True,
    file: str | None = None,
) -> Download:
    """What is used of a repository.

    Args:
        variant: Of the weights; by default the plain ones, or the variant that is there alone.
        weights: Whether weights are.
        file: The one file or folder that is, in place of what is used of a whole model.
    """
    from huggingface_hub import HfApi

    if offline():
        raise UnreachableError(_absent())
    try:
        info = HfApi().model_info(place, revision=revision, files_metadata=True)
    except Exception as error:  # the hub client has no common base for its errors
        raise UnreachableError(why_not(error, place)) from error
    files = {
        file.rfilename: RemoteFile(file.rfilename, file.size, getattr(file.lfs, "sha256", None))
        for file in info.siblings or ()
    }
    commit = str(info.sha)
    parts = [file] if file else parts_of(_fetched(place, INDEX, commit)) if INDEX in files else [""]
    names = [file] if file in files else needed(files, parts, variant, place)
    names = [name for name in names if weights or not weights_of(Path(name).name)]
    if not names:
        what = f"no {file}" if file else "no model of diffusers or transformers, and not one file of weights alone"
        raise ModelError(f"The repository {place} holds {what}. {did_you_mean(file or place, files)}".strip())
    left = sum(file.size or 0 for name, file in files.items() if name not in set(names))
    return Download(place, commit, tuple(files[name] for name in names), left)


def fetch(download: Download, *, into: Path | None = None, check: bool = False, progress: Progress = silent) -> Path:
    """Fetch what a plan says, going on where an earlier try stopped.

    Args:
        into: A folder to lie in, in place of the cache of the hub.
        check: Compare sizes and digests of all files with what the hub says, and fetch those that differ again.

    Returns:
        The folder.
    """
    folder = into or Path()
    for file in progress(download.files, total=len(download.files), desc=f"fetching {download.place}"):
        path = _fetched(download.place, file.name, download.revision, into=into)
        folder = path.parents[file.name.count("/")]
        if check and file.fault(folder):
            _fetched(download.place, file.name, download.revision, into=into, again=True)
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
    """
    held = mirrored(place, revision, variant)
    if held is not None:
        return held
    index = _fetched(place, INDEX, revision)
    try:
        download = plan(place, revision, variant, weights=weights)
    except UnreachableError:
        return index.parent  # what is there may be enough; the folder is looked through next
    return fetch(download)


def needed(files: Iterable[str], parts: Collection[str], variant: str | None, place: str) -> list[str]:
    """The files that are used of a repository.

    Args:
        files: All of them.
        parts: Folders of the parts of a pipeline; ``""`` for a repository that is one network, or one file of weights
            (a LoRA).
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
    alone = [name for name in inside.get("", ()) if name.endswith(".safetensors")]
    return alone if len(alone) == 1 and not weights[""] else names


def parts_of(index: Path) -> list[str]:
    """Names of the parts of a pipeline that run, by its index, which is looked through with all care only when it is
    loaded."""
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [
        part
        for part, value in (entries.items() if isinstance(entries, dict) else ())
        if isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, str) for v in value)
        and part.isidentifier()
        and part not in UNUSED
    ]


def _absent() -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "no connection to the hub"


def why_not(error: BaseException, place: str, file: str | None = None) -> str:
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
