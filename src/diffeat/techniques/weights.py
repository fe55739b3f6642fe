"""Which weights techniques bring, so that stored features of other files under the same name never mix."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from diffeat.backbones.fingerprint import with_parts
from diffeat.geometry import file_digest
from diffeat.techniques.base import Custom, Technique


def fingerprint_with(base: str, techniques: Iterable[Technique | Custom]) -> str:
    """The fingerprint of a model with the weights on disk that techniques name; hub ids stand for themselves."""
    return with_parts(base, [_digest(file) for t in techniques if isinstance(t, Technique) for file in t.files()])


def _digest(name: str) -> str:
    path = Path(os.path.expanduser(name))
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path] if path.is_file() else []
    return " ".join(_of_file(f, f.stat().st_mtime_ns, f.stat().st_size) for f in files) or name


@lru_cache(maxsize=64)
def _of_file(path: Path, changed: int, size: int) -> str:
    return file_digest(path)
