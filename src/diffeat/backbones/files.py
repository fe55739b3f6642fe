"""Files of models, which anybody may have written: only regular ones are opened, and no code in them runs."""

from __future__ import annotations

import json
import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffeat.errors import ModelError

_LARGEST_CONFIG = 1 << 24  # bytes
_DEEPEST_CONFIG = 64
PICKLED = (".ckpt", ".pt", ".pth", ".bin")


def is_path(name: str) -> bool:
    """Whether a name means a place on this machine and no hub id (``owner/name``)."""
    return os.path.lexists(name) or os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") != 1


def check_regular(path: Path) -> Path:
    """The path of a regular file that can be read without waiting, and is not empty."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path} is not a regular file.")
    if not status.st_size:
        raise ModelError(f"{path} is empty. Download it again.")
    return path


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, not too large or too deep for one that describes a model."""
    if check_regular(path).stat().st_size > _LARGEST_CONFIG:
        raise ModelError(f"{path} is too large to describe a model ({_LARGEST_CONFIG >> 20} MB at most).")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON ({first_line(error)}).") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds a {type(data).__name__}, not a JSON object.")
    if _depth(data) > _DEEPEST_CONFIG:
        raise ModelError(f"{path} is nested too deeply ({_DEEPEST_CONFIG} levels at most).")
    return data


def _depth(data: Any) -> int:
    level, depth = [data], 0
    while level and depth <= _DEEPEST_CONFIG:
        level = [v for d in level for v in (d.values() if isinstance(d, dict) else d if isinstance(d, list) else ())]
        depth += 1
    return depth


def check_safetensors(path: Path) -> list[str]:
    """Names of the tensors in a file, whose header also tells its length: half downloads and pointers fail at once."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(check_regular(path), framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError, MemoryError) as error:  # a sparse file may be larger than what can be mapped
        raise ModelError(f"The weights file {path} is damaged ({first_line(error)}). Download it again.") from None


def read_plain(path: Path) -> Any:
    """What a pickle of PyTorch holds, if that is tensors and plain values: anything else could run code."""
    try:
        return torch.load(check_regular(path), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, AttributeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a plain state dict: {first_line(error)}. Only tensors and plain values are read from a "
            "pickle, since anything else could run code. Save it again as safetensors."
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a state dict that PyTorch pickled."""
    if path.suffix in PICKLED:
        data = read_plain(path)
        data = data.get("state_dict", data) if isinstance(data, dict) else {}
        tensors = {str(name): value for name, value in data.items() if isinstance(value, Tensor)}
        if not tensors:
            raise ModelError(f"{path} holds no state dict of tensors.")
        return tensors
    from safetensors.torch import load_file

    check_safetensors(path)
    return load_file(path)


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not empty, shortened."""
    lines: Iterator[str] = (line.strip() for line in str(error).splitlines() if line.strip())
    return next(lines, type(error).__name__)[:300]


def said(error: BaseException) -> str:
    """The kind and the first line of somebody else's error."""
    return f"{type(error).__name__}: {first_line(error)}"
