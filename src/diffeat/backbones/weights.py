"""Other weights for the denoiser of a loaded model, as fine-tuned backbones such as CleanDIFT are published."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import Tensor

from diffeat.backbones.files import PICKLED, is_path, read_tensors, said
from diffeat.backbones.folder import shards_of
from diffeat.backbones.hub import UnreachableError, fetch_file, near
from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import ModelError
from diffeat.geometry import file_digest

if TYPE_CHECKING:
    from diffeat.backbones.backbone import Backbone

_DENOISERS = ("unet", "transformer", "unet_ema", "transformer_ema")
#: What trainers and wrappers put before the names of weights.
_PREFIXES = ("module.", "_orig_mod.", "unet.", "transformer.")
_SINGLE_FILE = "model.diffusion_model."
#: The denoiser in a whole CleanDIFT checkpoint, which holds its adapters and the original denoiser too.
_CLEANDIFT = "unet_feature_extractor_cleandift."


def load_denoiser_weights(
    backbone: Backbone, source: str, file: str | None = None, revision: str | None = None
) -> None:
    """Replace the denoiser's weights by others of the same architecture; arguments and errors of
    :func:`denoiser_weights`."""
    unwrapped(backbone.denoiser).load_state_dict(denoiser_weights(backbone, source, file, revision))


def denoiser_weights(
    backbone: Backbone, source: str, file: str | None = None, revision: str | None = None
) -> dict[str, Tensor]:
    """Weights for a denoiser of the same architecture, by the names of the model's own.

    Args:
        source: A file of weights (safetensors, or a state dict that PyTorch pickled; also a single-file checkpoint or a
            whole CleanDIFT checkpoint, whose denoiser is taken), a folder that holds ``file`` or a denoiser (one that
            ``save_pretrained`` wrote, a training's ``checkpoint-500``, a pipeline), or the hub id of a repository that
            holds it.
        file: Name of the file inside ``source``.
    """
    network = unwrapped(backbone.denoiser)
    files = denoiser_files(source, file, revision)
    state = _converted({k: v for path in files for k, v in read_tensors(path).items()}, network, files[0])
    if differences := misfit(network.state_dict(), state):
        raise ModelError(
            f"The weights {files[0].name} do not fit the denoiser of {backbone.name}: {differences}. They belong to "
            "another architecture; use the base model they were trained from."
        )
    return state


def misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How weights differ in names and shapes from a network's own; empty if they do not."""
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reshaped = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    first = next(iter([*missing, *extra, *reshaped]), None)
    return (
        ""
        if first is None
        else (
            f"{len(missing)} tensors are missing, {len(extra)} are unknown, {len(reshaped)} have another shape "
            f"(first: {first!r})"
        )
    )


def _in_folder(folder: Path) -> list[Path]:
    """The files of the one denoiser in a folder."""
    inner = [folder / name for name in _DENOISERS if (folder / name).is_dir()]
    if len(inner) > 1:
        raise ModelError(f"{folder} holds several denoisers; name one: {' or '.join(map(str, inner))}.")
    folder = inner[0] if inner else folder
    index = next(iter(sorted(folder.glob("*.safetensors.index*.json"))), None)
    if index is not None:
        return shards_of(index)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("diffusion_pytorch_model*.bin"))
    plain = [path for path in files if path.name.count(".") == 1]
    if len(files) != 1 and len(plain) != 1:
        held = ", ".join(path.name for path in files) or "none"
        raise ModelError(f"{folder} does not hold one file of denoiser weights; name it as `file` (it holds: {held}).")
    return plain if len(plain) == 1 else files


def _converted(state: dict[str, Tensor], network: Any, path: Path) -> dict[str, Tensor]:
    """Weights under the names of diffusers."""
    if any(name.startswith(_CLEANDIFT) for name in state):
        state = {name.removeprefix(_CLEANDIFT): v for name, v in state.items() if name.startswith(_CLEANDIFT)}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    own = network.state_dict().keys()
    if not own.isdisjoint(state) or not hasattr(network, "from_single_file"):
        return state
    try:
        with TemporaryDirectory() as folder:
            network.save_config(folder)
            made = type(network).from_single_file(state, config=folder, local_files_only=True)
        return made.state_dict()
    except Exception as error:  # whatever the converters do not find
        if any(name.startswith(_SINGLE_FILE) for name in state):
            raise ModelError(
                f"The denoiser in {path} does not fit this {type(network).__name__} ({said(error)})."
            ) from error
        return state


def denoiser_files(
    source: str, file: str | None = None, revision: str | None = None, sha256: str | None = None
) -> list[Path]:
    """The files that :func:`denoiser_weights` reads, fetched if need be; a digest is of the one file."""
    folder = Path(os.path.expanduser(source))
    whole = file is None and revision is None and folder.is_dir()
    files = _in_folder(folder) if whole else [find_weights(source, file, revision)]
    check_digest(files, sha256, "denoiser.sha256")
    return files


def check_digest(files: Sequence[Path], sha256: str | None, field: str) -> None:
    """Refuse what is not the one file whose digest a field of a recipe tells, if it tells any."""
    if sha256 is not None and [file_digest(path) for path in files] != [sha256]:
        raise ModelError(
            f"{files[0]} is not the file that the recipe was written with (its SHA-256 differs). Put the right file "
            f"there, or remove {field} to accept this one."
        )


def find_weights(source: str, file: str | None, revision: str | None, what: str = "denoiser") -> Path:
    """A weights file: ``source`` itself, ``file`` in the folder ``source``, or in the hub repository of that name."""
    path = Path(os.path.expanduser(near(source, revision)))
    if os.path.lexists(os.path.expanduser(source)):
        unused = "revision" if revision is not None else "file" if file is not None and path.is_file() else None
        if unused is not None:
            raise ModelError(f"The {what} weights {source} lie on this machine and take no {unused}: leave it out.")
    if path.is_dir():
        if file is None or not (path / file).exists():
            held = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", *PICKLED))
            raise ModelError(f"The folder {source} holds no file {file!r}; its weights: {', '.join(held) or 'none'}.")
        return path / file
    if path.exists():
        return path
    if is_path(source) or Path(source).suffix in (".safetensors", *PICKLED):
        raise ModelError(
            f"The {what} weights {source} are not there: no such file or folder. Put the file there, or name "
            "its place in the recipe; what a shipped recipe's weights are, its notes say (diffeat recipes NAME)."
        )
    if file is None:
        raise ModelError(f"{source!r} is no local file; for a hub repository name the file in it as well.")
    try:
        return fetch_file(source, file, revision)
    except UnreachableError as error:
        raise ModelError(
            f"The {what} weights {file!r} of {source!r} cannot be fetched ({error}). Check the name and the "
            "connection, or give a local file."
        ) from None
