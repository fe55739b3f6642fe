"""Stores to break: a source that costs nothing, photographs, and processes that die at every operation on files."""

from __future__ import annotations

import builtins
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffeat.features import FeatureMap, Group, Picture, Streams
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureStore


@dataclass(frozen=True)
class FakeRecipe:
    """The least that a recipe is."""

    name: str = "fake"
    prompt: str = ""
    template: str = "a photo of a {}"
    hash: str = "hash"

    def content(self) -> dict[str, Any]:
        return {"kind": "fake", "timesteps": [261]}

    def text_for(self, prompt: str | None) -> str:
        return self.template.replace("{}", prompt) if prompt else self.prompt


@dataclass
class FakeSource(Streams[FeatureMap]):
    """Features that tell the picture and the text apart; ``read_names`` are the pictures that were read."""

    recipe: FakeRecipe = field(default_factory=FakeRecipe)
    fingerprint: str = "model"
    read_names: list[str] = field(default_factory=list)

    def group(self, picture: Picture) -> Group:
        return Group(None, 2)

    def read(self, pictures: Sequence[Picture]) -> Iterable[FeatureMap]:
        for picture in pictures:
            self.read_names.append(picture.name)
            text = self.recipe.prompt if picture.text is None else picture.text
            seed = int(hashlib.sha256(f"{picture.key}|{text}".encode()).hexdigest()[:8], 16)
            maps = torch.randn(2, 3, 2, 3, generator=torch.Generator().manual_seed(seed))
            frame = FrameSpec("squash", size=64).frame((picture.image.height, picture.image.width))
            yield FeatureMap({"a": maps[0], "b": maps[1]}, frame, picture.name, picture.digest, {"prompt": text})

    def store(self, path: Path) -> FeatureStore:
        return FeatureStore.of(path, self)


def write_photos(folder: Path, count: int, first: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(first)
    paths = []
    for number in range(first, first + count):
        width, height = numbers.integers(4, 9, 2)
        paths.append(folder / f"{number:03d}.png")
        Image.fromarray(numbers.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def content(folder: Path) -> dict[str, bytes]:
    """Every regular file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def seen(path: Path) -> dict[str, tuple[str, str, list[float]]]:
    """What a reader sees of every picture: digest, text, values; what is damaged raises."""
    if not FeatureStore.is_store(path):
        return {}
    store = FeatureStore.open(path)
    return {
        name: (digest, text, torch.cat([v.flatten() for v in store.load(name).activations.values()]).tolist())
        for name, (digest, text) in store.identities().items()
    }


_OPERATIONS = ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "mkdir"), (builtins, "open"))


def before_each(hook: Callable[[], None]) -> Callable[[], None]:
    """Call ``hook`` before every operation that changes files; returns what undoes it."""
    originals = [getattr(module, name) for module, name in _OPERATIONS]

    def hooked(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if original is not builtins_open or (len(arguments) > 1 and set(arguments[1]) & set("wxa")):
                hook()
            return original(*arguments, **named)

        return call

    builtins_open = builtins.open
    for (module, name), original in zip(_OPERATIONS, originals, strict=True):
        setattr(module, name, hooked(original))

    def undo() -> None:
        for (module, name), original in zip(_OPERATIONS, originals, strict=True):
            setattr(module, name, original)

    return undo


class Death(BaseException):
    """What a process that dies would never see."""


def killed(act: Callable[[], object], operation: int) -> bool:
    """Run ``act`` until before an operation (from 1), and let nothing touch a file from there on; ``False`` if it had
    fewer and ended well.
    """
    left = operation

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise Death

    undo = before_each(count_down)
    try:
        act()
    except Death:
        return True
    finally:
        undo()
    assert left > 0
    return False


def failing(act: Callable[[], object], operation: int, error: int) -> Exception | None:
    """Run ``act`` with an operation (from 1) that fails; what it raised, ``None`` if it had fewer."""
    left = operation

    def fail() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise OSError(error, os.strerror(error))

    undo = before_each(fail)
    try:
        act()
    except Exception as caught:
        return caught
    finally:
        undo()
    assert left > 0
    return None
