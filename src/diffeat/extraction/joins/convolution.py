"""A trained 3×3 convolution over joined maps, as in the correspondence of Generic Diffusion Feature (Meng et al.,
NeurIPS 2024, ``--algorithm conv``): no bias, as many channels as the maps of one model have, half for several models.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from diffeat.ambient import neutral, seeded
from diffeat.backbones.files import read_tensors
from diffeat.backbones.weights import check_digest, find_weights
from diffeat.errors import ModelError
from diffeat.extraction.reading import TrainedWeights
from diffeat.storage.atomic import StagedFile, disk_errors

WEIGHTS_FILE = "convolution.safetensors"


@neutral()
def new_convolution(channels: int, models: int, seed: int = 0) -> nn.Conv2d:
    """A convolution for joined maps of so many models and channels, with first weights of a seed."""
    with seeded(seed):
        return nn.Conv2d(channels, channels if models == 1 else channels // 2, 3, padding=1, bias=False)


def save_convolution(network: nn.Conv2d, file: Path) -> None:
    """Write the weights, complete or not at all."""
    from safetensors.torch import save

    with disk_errors(file.parent):
        StagedFile(file, save({"out.weight": network.weight.detach().cpu().contiguous()})).commit()


@neutral()
def load_convolution(weights: TrainedWeights) -> nn.Conv2d:
    """Read the weights, in evaluation mode."""
    path = convolution_file(weights)
    weight = read_tensors(path).get("out.weight")
    if weight is None or weight.ndim != 4 or weight.shape[2:] != (3, 3):
        raise ModelError(f"{path} holds no 3×3 convolution ('out.weight').")
    network = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
    network.load_state_dict({"weight": weight.float()})
    return network.eval()


def convolution_file(weights: TrainedWeights) -> Path:
    """The file of the weights, fetched if need be."""
    file = weights.file or (None if Path(weights.source).is_file() else WEIGHTS_FILE)
    path = find_weights(weights.source, file, weights.revision, "convolution")
    check_digest([path], weights.sha256, "network.sha256")
    return path


@torch.no_grad()
def convolved(network: nn.Conv2d, joined: Tensor) -> Tensor:
    """The convolution of a joined map ``(c, h, w)``; refused if it is for maps of other channels."""
    if len(joined) != network.in_channels:
        raise ModelError(
            f"The convolution takes {network.in_channels} channels, the joined maps have {len(joined)}: it was trained "
            "on other activations or models."
        )
    return network(joined[None].to(network.weight))[0]
