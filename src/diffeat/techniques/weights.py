"""Which weights techniques bring, so that stored features of other files under the same name never mix."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffeat.geometry import file_digest
from diffeat.techniques.controlnet import ControlNet
from diffeat.techniques.ip_adapter import IPAdapter
from diffeat.techniques.lora import LoRA


def fingerprint_with(base: str, techniques: Iterable[Any]) -> str:
    """The fingerprint of a model together with the weights on disk that techniques name; hub ids stand for themselves.

    Args:
        base: The model's own, returned as it is where there are no such techniques.
    """
    parts = []
    for technique in techniques:
        if isinstance(technique, ControlNet):
            parts.append(_digest(technique.model))
        elif isinstance(technique, LoRA):
            parts.append(_digest(str(Path(technique.path) / technique.file) if technique.file else technique.path))
        elif isinstance(technique, IPAdapter):
            parts.append(_digest(str(Path(technique.path) / technique.subfolder / technique.file)))
    return hashlib.sha256("\n".join([base, *parts]).encode()).hexdigest() if parts else base


def _digest(name: str) -> str:
    path = Path(name)
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path] if path.is_file() else []
    return " ".join(_of_file(f, f.stat().st_mtime_ns, f.stat().st_size) for f in files) or name


@lru_cache(maxsize=64)
def _of_file(path: Path, changed: int, size: int) -> str:
    return file_digest(path)
