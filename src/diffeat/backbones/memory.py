"""What networks made before of the same pictures and texts: several recipes over them encode each once.

Encoding a picture is most of a recipe of one draw. While :func:`remembered` lasts, posteriors of autoencoders and texts
that were encoded are kept, in memory and in a folder, both bounded, the oldest going first. They are kept under what
went in, the fingerprint of what encodes it, its precision, its device, torch's version and its threads: what comes back
is, bit for bit, what would be computed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

log = logging.getLogger("diffeat")

_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
_NOW: list[Memory] = []


class Memory:
    """Tensors by key, single or in tuples, lists and mappings; on the CPU. Used in ``with``, it is where all is kept.

    Args:
        folder: Where else they are kept, for later runs too; made when the first is written.
        memory: Bytes that may be held.
        disk: Bytes that the folder may take.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, memory: float = 1e9, disk: float = 4e9) -> None:
        self._folder = None if folder is None else Path(folder)
        self._memory, self._disk = memory, disk
        self._held: OrderedDict[str, tuple[Any, list[Tensor]]] = OrderedDict()
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()
        if self._folder is not None and self._folder.is_dir():
            stats = [(file, file.stat()) for file in self._folder.iterdir() if _NAME.fullmatch(file.name)]
            self._files.update((file, stat.st_size) for file, stat in sorted(stats, key=lambda f: f[1].st_mtime_ns))

    def __enter__(self) -> Self:
        _NOW.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _NOW.remove(self)

    def get_or_make(self, key: str, device: torch.device, make: Callable[[], Any]) -> Any:
        """What is kept under a key, or is made and kept; on a device.

        Args:
            key: See :func:`key_of`.
            make: Gives tensors.
        """
        with self._lock:
            kept = self._held.get(key) or self._read(key)
        if kept is None:
            tensors: list[Tensor] = []
            made = make()
            try:
                kept = shape, _ = _apart(made, tensors), tensors
            except TypeError:  # it holds what no file can
                return made
            with self._lock:
                self._write(key, shape, tensors)
        with self._lock:
            self._held[key] = kept
            self._held.move_to_end(key)
            while sum(tensor.nbytes for _, held in self._held.values() for tensor in held) > self._memory:
                self._held.popitem(last=False)
        return _together(kept[0], [tensor.to(device) for tensor in kept[1]])

    def clear(self) -> None:
        """Forget all, and remove the folder's files."""
        self._held.clear()
        for file in self._files:
            file.unlink(missing_ok=True)
        self._files.clear()
        if self._folder is not None:
            with suppress(OSError):  # there is something else in it, or it was never made
                self._folder.rmdir()

    def _read(self, key: str) -> tuple[Any, list[Tensor]] | None:
        from safetensors import SafetensorError, safe_open

        file = self._folder and self._folder / f"{key}.safetensors"
        if file is None or file not in self._files:
            return None
        with suppress(OSError, SafetensorError, KeyError, ValueError), safe_open(file, framework="pt") as opened:
            facts = opened.metadata()
            tensors = [opened.get_tensor(str(k)) for k in range(len(list(opened.keys())))]
            if facts["crc"] == _crc(facts["shape"], tensors):
                return json.loads(facts["shape"]), tensors
        return None  # damaged, or gone: it is made anew

    def _write(self, key: str, shape: Any, tensors: list[Tensor]) -> None:
        from safetensors.torch import save

        if self._folder is None:
            return
        file = self._folder / f"{key}.safetensors"
        part = file.with_name(f".{file.name}-{os.getpid()}")
        text = json.dumps(shape)
        content = {str(k): tensor.clone() for k, tensor in enumerate(tensors)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(save(content, {"shape": text, "crc": _crc(text, tensors)}))
            os.replace(part, file)
            self._files[file] = file.stat().st_size
        except OSError as error:
            log.warning("What was encoded is kept in memory alone: %s cannot be written (%s).", file.parent, error)
            with suppress(OSError):
                part.unlink()
            self._folder = None
        while self._files and sum(self._files.values()) > self._disk:
            oldest, _ = self._files.popitem(last=False)
            oldest.unlink(missing_ok=True)


@contextmanager
def remembered(folder: str | os.PathLike[str] | None = None, memory: float = 1e9, disk: float = 4e9) -> Iterator[None]:
    """Keep for the while what is encoded; arguments as of :class:`Memory`. Inside another, that one goes on."""
    with Memory(folder, memory, disk) if not _NOW else nullcontext():
        yield


def keep_newest(memory: dict[Any, Any], count: int) -> None:
    """Forget what was put in first, but for so many."""
    for key in list(memory)[:-count]:
        memory.pop(key, None)


def current() -> Memory | None:
    """Where is kept what is encoded now, if it is."""
    return _NOW[0] if _NOW else None


def key_of(encoder: str, content: Tensor | str) -> str:
    """Tells pixels or a text, and what encodes them, from others."""
    surroundings = f"{encoder}|{torch.__version__}|{torch.get_num_threads()}|"
    if isinstance(content, str):
        return hashlib.sha256(f"{surroundings}{content}".encode()).hexdigest()
    digest = hashlib.sha256(f"{surroundings}{tuple(content.shape)}|{content.dtype}|".encode())
    digest.update(_bytes(content.cpu()))
    return digest.hexdigest()


def dense(value: Any) -> Any:
    """A value whose tensors are contiguous, as they come back from a file: bits of what follows depend on strides."""
    if isinstance(value, Tensor):
        return value.contiguous()
    if type(value) in (tuple, list):
        return type(value)(map(dense, value))
    return {key: dense(item) for key, item in value.items()} if type(value) is dict else value


def _apart(value: Any, tensors: list[Tensor]) -> Any:
    """A value as JSON, with the places of its tensors, which are added to ``tensors``; nothing else may be in it."""
    if isinstance(value, Tensor):
        tensors.append(value.detach().cpu().contiguous())
        return {"tensor": len(tensors) - 1}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [_apart(item, tensors) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[key, _apart(item, tensors)] for key, item in value.items()]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"plain": value}
    raise TypeError(f"A {type(value).__name__} is not kept.")


def _together(shape: Any, tensors: list[Tensor]) -> Any:
    ((kind, of),) = shape.items()
    match kind:
        case "tensor":
            return tensors[of]
        case "dict":
            return {key: _together(item, tensors) for key, item in of}
        case "plain":
            return of
    items = [_together(item, tensors) for item in of]
    return tuple(items) if kind == "tuple" else items


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _crc(text: str, tensors: list[Tensor]) -> str:
    crc = zlib.crc32(text.encode())
    for tensor in tensors:
        if tensor.numel():
            crc = zlib.crc32(_bytes(tensor), crc)
    return str(crc)
