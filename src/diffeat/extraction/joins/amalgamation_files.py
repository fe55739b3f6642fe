"""Amalgamations on disk: one safetensors file with the configuration in its metadata."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from diffeat.errors import ModelError
from diffeat.extraction.joins.amalgamation import Amalgamation, AmalgamationConfig
from diffeat.storage.atomic import StagedFile, disk_errors

_KEY = "diffeat-amalgamation"


def save_amalgamation(network: Amalgamation, file: Path) -> None:
    """Write the file, complete or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    from safetensors.torch import save

    # modules that assigners share are stored once for each, as independent copies
    state = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    data = save(state, metadata={_KEY: json.dumps(asdict(network.config))})
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        StagedFile(file, data).commit()


def load_amalgamation(file: Path) -> Amalgamation:
    """Read a file, in evaluation mode.

    Raises:
        ModelError: If it is missing or no amalgamation.
    """
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(str(file), "pt") as handle:
            config = (handle.metadata() or {}).get(_KEY)
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The amalgamation {str(file)!r} cannot be read: {error}") from None
    if config is None:
        raise ModelError(f"{file} holds no amalgamation of diffeat.")
    with torch.random.fork_rng(devices=[]):
        network = Amalgamation(AmalgamationConfig(**json.loads(config)))
    network.load_state_dict(state)
    return network.eval()
