"""Amalgamations on disk: one safetensors file with the configuration in its metadata."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from diffeat.errors import ModelError
from diffeat.extraction.joins.amalgamation import Amalgamation, AmalgamationConfig, LevelAmalgamation
from diffeat.storage.atomic import StagedFile, disk_errors

_KEY = "diffeat-amalgamation"


def save_amalgamation(network: Amalgamation | LevelAmalgamation, file: Path) -> None:
    """Write the file, complete or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    from safetensors.torch import save

    # modules that assigners share are stored once for each, as independent copies
    state = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    levels = isinstance(network, LevelAmalgamation)
    config = {"levels": [*map(asdict, network.configs)], "grid": network.grid} if levels else asdict(network.config)
    data = save(state, metadata={_KEY: json.dumps(config)})
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        StagedFile(file, data).commit()


def load_amalgamation(file: Path) -> Amalgamation | LevelAmalgamation:
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
    facts = json.loads(config)
    with torch.random.fork_rng(devices=[]):
        if "levels" in facts:
            grid = facts["grid"] and (facts["grid"][0], facts["grid"][1])
            network = LevelAmalgamation([AmalgamationConfig(**level) for level in facts["levels"]], grid)
        else:
            network = Amalgamation(AmalgamationConfig(**facts))
    network.load_state_dict(state)
    return network.eval()
