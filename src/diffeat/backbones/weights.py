"""Other weights for the denoiser of a loaded model, as fine-tuned backbones such as CleanDIFT are published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffeat.errors import ModelError

if TYPE_CHECKING:
    from diffeat.backbones.backbone import Backbone


def load_denoiser_weights(
    backbone: Backbone, source: str, file: str | None = None, revision: str | None = None
) -> None:
    """Replace the denoiser's weights by those of a safetensors file of the same architecture.

    Args:
        backbone: The model; keeps its precision and device.
        source: A safetensors file, a folder that holds ``file``, or the hub id of a repository that holds it.
        file: Name of the file inside ``source``.
        revision: Revision of the hub repository.

    Raises:
        ModelError: If the file cannot be had, or its tensors do not fit the denoiser; the model is then unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = find_weights(source, file, revision)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"The denoiser weights {path} cannot be read: {error}") from None
    own = backbone.denoiser.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reshaped = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or extra or reshaped:
        example = (missing or extra or reshaped)[0]
        raise ModelError(
            f"The weights {path.name} do not fit the denoiser of {backbone.name}: {len(missing)} tensors are missing, "
            f"{len(extra)} are unknown, {len(reshaped)} have another shape (first: {example!r}). They belong to "
            "another architecture; use the base model they were trained from."
        )
    backbone.denoiser.load_state_dict(state)


def find_weights(source: str, file: str | None, revision: str | None, what: str = "denoiser") -> Path:
    """A weights file: ``source`` itself, ``file`` in the folder ``source``, or in the hub repository of that name.

    Raises:
        ModelError: If there is none, or it cannot be fetched.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        if file is None or not (path / file).is_file():
            held = ", ".join(sorted(p.name for p in path.glob("*.safetensors"))) or "none"
            raise ModelError(f"The folder {source} holds no file {file!r}; its safetensors files: {held}.")
        return path / file
    if file is None:
        raise ModelError(f"{source!r} is no local file; for a hub repository name the file in it as well.")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source, file, revision=revision))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"The {what} weights {file!r} of {source!r} cannot be fetched ({reason}). Check the name and the "
            "connection, or give a local file."
        ) from None
