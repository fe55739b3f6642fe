r"""How values are kept on disk.

``float32`` is exact; ``float16`` and ``bfloat16`` round to the nearest. ``int8`` stores, for each channel
with largest magnitude m, the scale ``s = m / 127`` in float32 and ``q = round(x / s)``. What is read back is
``q·s``, and the error is at most half a step:

.. math:: |x - q s| \le \frac{s}{2} = \frac{m}{254}
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import InvalidValueError, NonFiniteError, did_you_mean

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}


def check_dtype(name: str) -> None:
    """Raise InvalidValueError for a dtype that stores do not have."""
    if name not in DTYPES:
        raise InvalidValueError(f"A store has no dtype {name!r}. {did_you_mean(str(name), DTYPES)}")


def encode(values: Float[Tensor, "c h w"], dtype: str, name: str) -> tuple[Tensor, Tensor | None]:
    """The tensor to store, and the scale ``(C, 1, 1)`` of int8.

    Args:
        values: Finite features.
        dtype: A key of :data:`DTYPES`.
        name: Picture and activation, for the message.

    Raises:
        NonFiniteError: NaN or infinity in the features, or values too large for the dtype.
    """
    values = values.detach().cpu()
    if not torch.isfinite(values).all():
        raise NonFiniteError(f"{name} holds NaN or infinite values; they are not stored.")
    if dtype == "int8":
        values = values.float()
        scale = values.abs().amax(dim=(1, 2), keepdim=True) / 127 if values.numel() else values.sum((1, 2), True)
        steps = torch.where(scale > 0, scale, 1.0)
        return (values / steps).round().clamp(-127, 127).to(torch.int8).contiguous(), scale.contiguous()
    stored = values.to(DTYPES[dtype]).contiguous()
    if not torch.isfinite(stored).all():
        largest = values.abs().max().item()
        limit = torch.finfo(DTYPES[dtype]).max
        raise NonFiniteError(
            f"{name} reaches {largest:.6g}, more than {dtype} can hold ({limit:.6g}). "
            "Store it as bfloat16 (same size, range of float32) or float32."
        )
    return stored, None


def decode(stored: Tensor, scale: Tensor | None) -> Tensor:
    """What :func:`encode` stored: float32 for int8, otherwise as it is."""
    return stored if scale is None else stored.float() * scale
