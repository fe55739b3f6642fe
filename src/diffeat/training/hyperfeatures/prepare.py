"""From datasets to the maps that a network is trained or measured on, each picture extracted once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from diffeat.activations import Catalogue
from diffeat.datasets.pairs import PairDataset
from diffeat.evaluation.features import extract_pictures, mirrored_pictures
from diffeat.evaluation.texts import PromptPolicy, picture_texts
from diffeat.extraction import Extractor
from diffeat.extraction.joins.aggregation import AggregationConfig
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.training.hyperfeatures.maps import FreshMaps, MapSource, StoredMaps, map_names

_SHARE_OF_DISK = 0.8
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@dataclass
class Prepared:
    """Maps of the pictures of some datasets; close it (or use ``with``) to let go of the store.

    Attributes:
        pictures: How many, mirrored copies included.
        mirrored: Mirrored copy of each training picture, where they were asked for.
        stored: Whether the maps rest in a store; otherwise they are extracted whenever they are asked for.
        extracted: Pictures that this run extracted into the store.
        bytes: Of one picture's maps, in the precision of the model.
    """

    source: MapSource
    channels: tuple[int, ...]
    pictures: int
    mirrored: dict[Path, Path]
    stored: bool
    extracted: int
    bytes: int
    _open: ExitStack = field(default_factory=ExitStack, repr=False)

    def close(self) -> None:
        """Let other processes write to the store."""
        self._open.close()

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare(
    extractor: Extractor,
    datasets: Sequence[PairDataset],
    folder: Path,
    *,
    prompts: PromptPolicy = None,
    mirror: PairDataset | None = None,
    dtype: str = "float32",
    limit: int | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Extract all pictures of ``datasets`` into a store, or make ready to extract them again and again.

    Args:
        extractor: Of a recipe without fusion.
        folder: Where the store and mirrored copies go. An earlier store there is gone on with.
        prompts: Text for the pictures (see :data:`diffeat.evaluation.texts.PromptPolicy`).
        mirror: A dataset whose pictures are needed mirrored as well.
        limit: The most bytes the store may take; by default most of the free disk.

    Raises:
        DatasetError: A picture cannot be extracted.
        StoreError: The store cannot be written, or is of another recipe.
    """
    template = extractor.recipe.template
    texts = {path: text for pairs in datasets for path, text in picture_texts(pairs, prompts, template).items()}
    mirrored: dict[Path, Path] = {}
    if mirror is not None:
        mirrored = mirrored_pictures(mirror.images(), folder / "mirrored")
        texts |= {copy: texts[path] for path, copy in mirrored.items()}
    fresh = FreshMaps(extractor, texts)
    example = fresh.maps(next(iter(texts)))
    channels = tuple(layer.shape[1] for layer in example.layers)
    values = sum(layer.numel() for layer in example.layers)
    folder.mkdir(parents=True, exist_ok=True)
    room = int(_SHARE_OF_DISK * shutil.disk_usage(folder).free) if limit is None else limit
    where = folder / f"features-{extractor.recipe.hash[:12]}"
    if not FeatureStore.is_store(where) and values * _BYTES[dtype] * len(texts) > room:
        return Prepared(fresh, channels, len(texts), mirrored, False, 0, example.bytes)
    opened = ExitStack()
    store = opened.enter_context(FeatureStore.of(where, extractor, dtype))
    try:
        summary = extract_pictures(extractor, texts, store, progress)
    except BaseException:
        opened.close()
        raise
    source = StoredMaps(store, map_names(extractor))
    return Prepared(source, channels, len(texts), mirrored, True, len(summary.extracted), example.bytes, opened)


def explicit(extractor: Extractor) -> Extractor:
    """The same extractor by a recipe that spells every activation and step out, as recipes of trained networks do.

    Features stored by it serve the training, pruning and whatever reads the same maps later.
    """
    recipe = extractor.recipe
    known = Catalogue.of(extractor.backbone) if any(":" in n for n in extractor.names) else {}
    changes: dict = {"activations": [known[n].id if n in known else n for n in extractor.names]}
    if recipe.trajectory.stepped:
        changes["trajectory.save"] = [int(s) for s in recipe.trajectory.read_steps]
    return Extractor(recipe.replace(**changes), extractor.backbone, batch_size=extractor.batch_size)


def network_config(
    extractor: Extractor,
    channels: Sequence[int],
    projection: int = 384,
    bottleneck: int | None = None,
) -> AggregationConfig:
    """The network for what an :func:`explicit` extractor reads."""
    path = extractor.recipe.trajectory
    return AggregationConfig(
        activations=tuple(extractor.names),
        channels=tuple(channels),
        steps=path.read_steps,
        count=path.steps,
        model=extractor.recipe.model,
        projection=projection,
        bottleneck=bottleneck,
    )
