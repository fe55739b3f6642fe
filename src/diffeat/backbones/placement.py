"""Where and in which precision a model runs, from what users write."""

from __future__ import annotations

import torch

from diffeat.errors import InvalidValueError, did_you_mean

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The precision of a name; ``None`` stays."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InvalidValueError(f"The precision {str(dtype)[:80]!r} is unknown. {did_you_mean(name, DTYPES)}".strip())
    return DTYPES[name]


def device_of(device: torch.device | str | None) -> torch.device:
    """The device of a name; by default the first accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is None:
        return accelerator or torch.device("cpu")
    count = torch.accelerator.device_count() if accelerator else 0
    kind = accelerator.type if accelerator else ""
    choices = ["cpu", *([kind] if kind else []), *(f"{kind}:{i}" for i in range(count))]
    name = str(device).strip().lower()
    if name not in [*choices, "cpu:0"]:
        raise InvalidValueError(
            f"There is no device {str(device)[:80]!r} on this machine; there is {', '.join(choices)}."
            + ("" if kind else " For a GPU, PyTorch must be installed with support for it.")
        )
    return torch.device(name)


def placed(device: torch.device | str | None, dtype: torch.dtype | str | None) -> tuple[torch.device, torch.dtype]:
    """Device and precision; by default bfloat16 on an accelerator and float32 on the CPU."""
    where = device_of(device)
    return where, dtype_of(dtype) or (torch.float32 if where.type == "cpu" else torch.bfloat16)
