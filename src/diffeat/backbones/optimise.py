"""Ways to run a model faster that change its numbers in the last bits only, by the name a user gives.

``channels-last`` keeps the channels of convolutions next to each other in memory, as tensor cores want them.
``compile`` compiles the blocks that repeat, each kind once; calls that read inside a block run it as it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import InvalidValueError, ModelError, clipped, did_you_mean

if TYPE_CHECKING:
    from diffeat.backbones.backbone import Backbone

_BACKEND = "inductor"


def optimise(backbone: Backbone, ways: Iterable[str]) -> None:
    """Make a model faster, for good.

    Raises:
        InvalidValueError: No such way, or one that does nothing for this model.
        ModelError: This machine cannot compile.
    """
    for way in ways:
        if way not in WAYS:
            raise InvalidValueError(f"There is no optimisation {clipped(str(way))!r}. {did_you_mean(str(way), WAYS)}")
        WAYS[way](backbone)


def _channels_last(backbone: Backbone) -> None:
    networks = [part for part in (backbone.denoiser, getattr(backbone.pipeline, "vae", None)) if part is not None]
    if not any(
        isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) for module in backbone.denoiser.modules()
    ):
        raise InvalidValueError(f"The denoiser of {backbone.name} has no convolutions: channels-last does nothing.")
    for network in networks:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _compile(backbone: Backbone) -> None:
    network = unwrapped(backbone.denoiser)
    kinds = set(getattr(network, "_repeated_blocks", None) or ())
    blocks = [module for module in network.modules() if type(module).__name__ in kinds]
    if not blocks:
        raise InvalidValueError(
            f"{type(network).__name__} names no blocks that repeat: it cannot be compiled by regions."
        )
    try:
        torch.compile(torch.neg, backend=_BACKEND)(torch.ones(2, device=backbone.device))
    except Exception as error:  # no compiler, or one that does not work
        raise ModelError(f"torch.compile does not work on this machine ({clipped(str(error), 200)}).") from error
    for block in blocks:
        block.compile(backend=_BACKEND)


#: Every way, by its name.
WAYS: dict[str, Callable[[Backbone], None]] = {"channels-last": _channels_last, "compile": _compile}
