"""Stored features in the forms that other programs read.

To add a form, write its class and name it in :data:`FORMS`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

import numpy as np
from torch import Tensor

from diffeat.errors import InvalidValueError, StoreError, did_you_mean
from diffeat.features import FeatureMap
from diffeat.progress import Progress, silent
from diffeat.storage.atomic import disk_errors, temporary
from diffeat.storage.dataset import as_numpy
from diffeat.storage.layout import Chunks
from diffeat.storage.report import readable
from diffeat.storage.shard import safetensors_bytes
from diffeat.storage.store import FeatureStore
from diffeat.storage.url import PlaceLike

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_FILE_BYTES = 512 << 20  # of a file that holds many pictures
_GROUP_BYTES = 16 << 20  # of them that are held at once; larger pieces of memory are new each time


def told(feature: FeatureMap, text: str) -> dict[str, object]:
    """What is known of a picture beside its maps."""
    known = {"image": feature.image, "digest": feature.digest, "text": text}
    return {**known, "frame": feature.frame.to_dict(), "provenance": feature.provenance}


class Form(ABC):
    """A way to write pictures into a folder.

    Attributes:
        apart: Whether a picture has files of its own, which bear its name.
        arrays: Whether values are written as arrays, which hold no bfloat16.
    """

    apart = False
    arrays = True

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self.folder, self.files = folder, files

    @abstractmethod
    def write(self, number: int, feature: FeatureMap, text: str) -> None:
        """Write a picture."""

    def end(self) -> None:  # noqa: B027
        """Finish the last file."""


class _Numpy(Form):
    """``NAME/ACTIVATION.npy``, and ``pictures.jsonl`` with the frames; bfloat16 becomes float32."""

    apart = True

    def __init__(self, folder: Path, files: ExitStack) -> None:
        super().__init__(folder, files)
        self._listing = files.enter_context(open(folder / "pictures.jsonl", "w", encoding="utf-8"))  # noqa: SIM115

    def write(self, number: int, feature: FeatureMap, text: str) -> None:
        for name, values in feature.activations.items():
            file = self.folder / file_name(feature.image) / f"{file_name(name)}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, as_numpy(values))
        self._listing.write(json.dumps(told(feature, text)) + "\n")


class _Safetensors(Form):
    """``NAME.safetensors`` with a tensor for each activation, for ``safetensors.torch.load_file``."""

    apart = True
    arrays = False

    def write(self, number: int, feature: FeatureMap, text: str) -> None:
        file = self.folder / f"{file_name(feature.image)}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "wb") as opened:
            opened.writelines(safetensors_bytes(feature.activations, {"diffeat": json.dumps(told(feature, text))}))


class _WebDataset(Form):
    """``000000.tar``, …: of picture 17 ``0000017.json`` and ``0000017.ACTIVATION.npy``."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        super().__init__(folder, files)
        self._file: IO[bytes] | None = None
        self._files = 0

    def write(self, number: int, feature: FeatureMap, text: str) -> None:
        if self._file is None or self._file.tell() > _FILE_BYTES:
            self.end()
            self._file = self.files.enter_context(open(self.folder / f"{self._files:06d}.tar", "wb"))  # noqa: SIM115
            self._files += 1
        self._add(self._file, f"{number:07d}.json", [json.dumps(told(feature, text)).encode()])
        if len({name.replace("/", "_") for name in feature.activations}) < len(feature.activations):
            raise StoreError(f"Two maps of {feature.image} would have one name in the archive. Export as parquet.")
        for name, values in feature.activations.items():
            self._add(self._file, f"{number:07d}.{name.replace('/', '_')}.npy", _npy(values))

    @staticmethod
    def _add(file: IO[bytes], name: str, chunks: Sequence[bytes | memoryview]) -> None:
        member = tarfile.TarInfo(name)
        member.size = sum(map(len, chunks))
        file.write(member.tobuf(tarfile.PAX_FORMAT))
        file.writelines(chunks)
        file.write(b"\0" * (-member.size % tarfile.BLOCKSIZE))

    def end(self) -> None:
        if self._file is not None:
            self._file.write(b"\0" * 2 * tarfile.BLOCKSIZE)
            self._file.close()


class _Parquet(Form):
    """``000000.parquet``, …: a row for each picture, for ``datasets.load_dataset(FOLDER)``, and a card, ``README.md``.

    Columns are ``image``, ``digest``, ``text``, ``frame`` and ``provenance`` (JSON), and for each activation its map as
    the bytes of a ``.npy`` file: lists of numbers are written and read one number at a time, ten times as slowly.
    """

    def __init__(self, folder: Path, files: ExitStack) -> None:
        super().__init__(folder, files)
        self._first: FeatureMap | None = None
        self._pictures = 0
        self._rows: list[dict[str, str | Chunks]] = []
        self._bytes = self._files = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, number: int, feature: FeatureMap, text: str) -> None:
        row = {key: v if isinstance(v, str) else json.dumps(v) for key, v in told(feature, text).items()}
        self._first, self._pictures = self._first or feature, self._pictures + 1
        self._rows.append({**row, **{name: _npy(v) for name, v in feature.activations.items()}})
        self._bytes += feature.bytes
        if self._bytes > _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({name: _column([row[name] for row in self._rows]) for name in self._rows[0]})
        if self._writer is None:
            file = self.folder / f"{self._files:06d}.parquet"
            self._writer = pq.ParquetWriter(
                file, table.schema, compression="none", use_dictionary=False, write_statistics=False
            )
            self._files += 1
            self._size = 0
        self._writer.write_table(table)
        self._size += self._bytes
        self._rows, self._bytes = [], 0
        if self._size > _FILE_BYTES:
            self._writer.close()
            self._writer = None

    def end(self) -> None:
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        if self._first is not None:
            (self.folder / "README.md").write_text(self._card(self._first), encoding="utf-8")

    def _card(self, first: FeatureMap) -> str:
        """What a hub and its readers want to know."""
        from diffeat.backbones.card import cards

        facts = {name: first.provenance.get(name) for name in ("recipe", "recipe_hash", "model")}
        maps = [f"- `{name}`: {tuple(values.shape)} of the first picture" for name, values in first.activations.items()]
        lines = [
            *[
                "---",
                "tags: [diffeat, dense-features]",
                "configs:",
                "- config_name: default",
                "  data_files: '*.parquet'",
            ],
            *["---", "", "# Features of pictures", ""],
            f"{self._pictures} pictures, extracted by diffeat: {json.dumps({k: v for k, v in facts.items() if v})}.",
            *["", "A row is a picture. A map (channels, height, width) lies there as the bytes of a `.npy` file:"],
            *["", *maps, "", "```python", "import io", "import numpy as np", "from datasets import load_dataset", ""],
            'row = load_dataset("OWNER/NAME", split="train")[0]',
            *[f"values = np.load(io.BytesIO(row[{json.dumps(next(iter(first.activations)))}]))", "```"],
        ]
        model = cards().get(str(facts["model"]))
        if model is not None:
            lines += ["", f"The licence of the model that the features were read from: {model.licence}."]
        return "\n".join(lines) + "\n"


def _npy(values: Tensor) -> Chunks:
    """A map as a ``.npy`` file; bfloat16 becomes float32."""
    array = as_numpy(values.contiguous())
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return [head.getvalue(), array.reshape(-1).view(np.uint8).data if array.size else b""]


def _column(values: Sequence[str | Chunks]) -> pa.Array:
    """Texts, or files, whose memory is copied once."""
    import pyarrow as pa

    files = [value for value in values if not isinstance(value, str)]
    if not files:
        return pa.array(values, pa.string())
    ends = np.cumsum([0, *(sum(map(len, file)) for file in files)]).astype(np.int32)
    data = b"".join(chunk for file in files for chunk in file)
    return pa.Array.from_buffers(pa.binary(), len(files), [None, pa.py_buffer(ends), pa.py_buffer(data)])


#: Every form, by name.
FORMS: dict[str, type[Form]] = {
    "numpy": _Numpy,
    "safetensors": _Safetensors,
    "webdataset": _WebDataset,
    "parquet": _Parquet,
}


def file_name(name: str) -> str:
    """The name of a picture or an activation as that of a file inside a folder, whatever it holds.

    Example:
        >>> file_name("/data/../photos/cat.png")
        'data/__/photos/cat.png'
    """
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "/"]
    return "/".join("_" * len(part) if set(part) <= {"."} else part for part in parts) or "_"


def export(
    store: FeatureStore | PlaceLike,
    out: str | os.PathLike[str],
    form: str,
    activations: Sequence[str] | None = None,
    progress: Progress = silent,
) -> int:
    """Write the features of a store for other programs; the folder appears when all of it is there.

    Args:
        store: The store, or its folder.
        out: A folder, which must not be there.
        form: ``"numpy"``, ``"safetensors"``, ``"webdataset"`` or ``"parquet"``.
        activations: Names of the wanted maps; all if not given.
        progress: How to show the pictures go by.

    Returns:
        How many pictures were written.

    Raises:
        InvalidValueError: No such form, or the folder is there.
        UnknownNameError: A picture has no such activation.
        StoreError: Something is damaged, two pictures would have one file, or the disk is full.
    """
    if form not in FORMS:
        raise InvalidValueError(f"There is no form {form!r} to export to. {did_you_mean(form, FORMS)}")
    folder, store = Path(out), store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    if os.path.lexists(folder):
        raise InvalidValueError(f"{folder} is there already. Choose a new folder.")
    index = store.index()
    names, texts = index.names(), index.column("text")
    taken: dict[str, str] = {}
    for name in names if FORMS[form].apart else ():
        if (other := taken.setdefault(file_name(name), name)) != name:
            raise StoreError(f"{other} and {name} would have one file. Export as webdataset or parquet.")
    unfinished = temporary(folder)
    with disk_errors(folder, "The store is as it was."):
        _check_room(folder, store, names, activations, FORMS[form].arrays)
        try:
            unfinished.mkdir(parents=True)
            with ExitStack() as files:
                writer = FORMS[form](unfinished, files)
                for number in progress(range(len(names)), total=len(names), desc="export"):
                    writer.write(number, store.load(number, activations), texts[number])
                writer.end()
            os.rename(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return len(names)


def _check_room(
    folder: Path, store: FeatureStore, names: Sequence[str], activations: Sequence[str] | None, arrays: bool
) -> None:
    if not names:
        return
    maps = store.load(0, activations).activations.values()
    needed = sum(as_numpy(values).nbytes if arrays else values.nbytes for values in maps) * len(names)
    place = next(p for p in folder.absolute().parents if p.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise StoreError(
            f"The export takes about {readable(needed)}, and {place} has {readable(free)} left. Choose another disk, "
            "or fewer activations."
        )
