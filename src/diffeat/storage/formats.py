r"""How values are kept on disk: the formats of a store, by name.

``float32`` is exact; ``float16`` and ``bfloat16`` round to the nearest. ``int8`` stores, for each channel
with largest magnitude m, the scale ``s = m / 127`` in float32 and ``q = round(x / s)``. What is read back is
``q·s``, and the error is at most half a step:

.. math:: |x - q s| \le \frac{s}{2} = \frac{m}{254}

To add a format, write its class and name it in :data:`FORMATS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import InvalidValueError, NonFiniteError, did_you_mean
from diffeat.features.feature_map import finite, value_range


class Format(ABC):
    """A way to keep a map.

    Attributes:
        name: What a user calls it.
        extras: Names of tensors beside the map's own, which are read whole where a window of the map is read.
        width: Bytes of a value, without the extras.
    """

    name: str
    width: int
    extras: tuple[str, ...] = ()

    @abstractmethod
    def encode(self, values: Float[Tensor, "c h w"]) -> dict[str, Tensor]:
        """The tensors to store of finite features: the map's own ``(C, h, w)`` under ``""``, and the extras."""

    @abstractmethod
    def decode(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "c h w"]:
        """The map of what :meth:`encode` gave."""


class Plain(Format):
    """Values as they are, in a floating-point type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.name = str(dtype).removeprefix("torch.")
        self._dtype, self.width = dtype, dtype.itemsize

    def encode(self, values: Float[Tensor, "c h w"]) -> dict[str, Tensor]:
        return {"": values.to(self._dtype).contiguous()}

    def decode(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "c h w"]:
        return tensors[""]


class Int8(Format):
    """Whole numbers from -127 to 127 with a scale ``(C, 1, 1)`` per channel; read back as float32."""

    name = "int8"
    extras = ("scale",)
    width = 1

    def encode(self, values: Float[Tensor, "c h w"]) -> dict[str, Tensor]:
        values = values.float()
        scale = values.abs().amax(dim=(1, 2), keepdim=True) / 127 if values.numel() else values.sum((1, 2), True)
        steps = torch.where(scale > 0, scale, 1.0)
        stored = (values / steps).round().clamp(-127, 127).to(torch.int8)
        return {"": stored.contiguous(), "scale": scale.contiguous()}

    def decode(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "c h w"]:
        return tensors[""].float() * tensors["scale"]


#: Every format, by name.
FORMATS: dict[str, Format] = {
    format.name: format for format in (Plain(torch.float32), Plain(torch.float16), Plain(torch.bfloat16), Int8())
}


def get_format(name: str) -> Format:
    if name not in FORMATS:
        raise InvalidValueError(f"A store has no dtype {name!r}. {did_you_mean(str(name), FORMATS)}")
    return FORMATS[name]


def encode(values: Float[Tensor, "c h w"], format: Format, where: str) -> tuple[dict[str, Tensor], tuple[float, float]]:
    """The tensors to store of features, on the CPU, and the range of what is read back; ``where`` is for messages."""
    values = values.detach()
    stored = {part: tensor.cpu() for part, tensor in format.encode(values).items()}
    low, high = value_range(format.decode(stored))
    if math.isfinite(low) and math.isfinite(high):
        return stored, (low, high)
    if not finite(values):
        raise NonFiniteError(f"{where} holds NaN or infinite values; they are not stored.")
    raise NonFiniteError(
        f"{where} reaches {values.abs().max().item():.6g}, more than {format.name} can hold. "
        "Store it as bfloat16 (same size as float16, range of float32) or float32."
    )
