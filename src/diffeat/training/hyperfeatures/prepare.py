"""From datasets to the maps that a network is trained or measured on, each picture extracted once."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffeat.activations import Catalogue
from diffeat.datasets.pairs import PairDataset
from diffeat.evaluation.features import feature_folder, features_of, mirrored_pictures
from diffeat.evaluation.texts import PromptPolicy, picture_texts
from diffeat.extraction import Extractor
from diffeat.extraction.joins.aggregation import AggregationConfig
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.storage.formats import get_format
from diffeat.training.hyperfeatures.maps import FreshMaps, MapSource, StoredMaps, map_names

log = logging.getLogger("diffeat")

_SHARE_OF_DISK = 0.8


@dataclass(frozen=True)
class Prepared:
    """Maps of the pictures of some datasets.

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


@contextmanager
def prepare(
    extractor: Extractor,
    datasets: Sequence[PairDataset],
    folder: Path,
    *,
    prompts: PromptPolicy = None,
    mirror: PairDataset | None = None,
    dtype: str | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> Iterator[Prepared]:
    """Extract all pictures of ``datasets`` into a store, or make ready to extract them again and again.

    Args:
        extractor: Of a recipe without fusion.
        folder: Where the store and mirrored copies go. An earlier store there is gone on with.
        mirror: A dataset whose pictures are needed mirrored as well.
        dtype: Of the store; if not given, that of an earlier one there, else float32.
        limit: The most bytes the store may take; by default most of the free disk.
    """
    template = extractor.recipe.template
    texts = {path: text for pairs in datasets for path, text in picture_texts(pairs, prompts, template).items()}
    flipped = [] if mirror is None else mirror.images()
    example = FreshMaps(extractor, texts).maps(next(iter(texts)))
    channels = tuple(layer.shape[1] for layer in example.layers)
    values, count = sum(layer.numel() for layer in example.layers), len(texts) + len(flipped)
    folder.mkdir(parents=True, exist_ok=True)
    room = int(_SHARE_OF_DISK * shutil.disk_usage(folder).free) if limit is None else limit
    store = feature_folder(folder, extractor)
    earlier = FeatureStore.is_store(store)
    dtype = dtype or (FeatureStore.open(store).dtype if earlier else "float32")
    if not earlier and values * get_format(dtype).width * count > room:
        log.warning(
            "The maps of %d pictures take %.0f GB in %s, of which %.0f GB may be used: none are stored, and every step "
            "extracts its pictures again, which takes many times longer. Make room, or store them smaller (int8).",
            count,
            values * get_format(dtype).width * count / 1e9,
            dtype,
            room / 1e9,
        )
        copies = mirrored_pictures(flipped, folder / "mirrored") if flipped else {}
        texts |= {copy: texts[path] for path, copy in copies.items()}
        yield Prepared(FreshMaps(extractor, texts), channels, count, copies, False, 0, example.bytes)
        return
    with features_of(extractor, texts, store, mirror=flipped, dtype=dtype, keep=0, progress=progress) as features:
        source, extracted = StoredMaps(features, map_names(extractor)), len(features.summary.extracted)
        yield Prepared(source, channels, count, features.mirrored, True, extracted, example.bytes)


def explicit(extractor: Extractor) -> Extractor:
    """The same extractor without fusion, by a recipe that spells every activation and step out, as recipes of trained
    networks do.

    Features stored by it serve the training, pruning and whatever reads the same maps later.
    """
    recipe = extractor.recipe
    known = Catalogue.of(extractor.backbone) if any(":" in n for n in extractor.names) else {}
    changes: dict = {"fuse": None, "activations": [known[n].id if n in known else n for n in extractor.names]}
    if recipe.trajectory.stepped:
        changes["trajectory.save"] = [int(s) for s in recipe.trajectory.read_steps]
    return Extractor(recipe.replace(**changes), extractor.backbone, batch_size=extractor.batch_size)


def network_config(
    extractor: Extractor, channels: Sequence[int], projection: int = 384, bottleneck: int | None = None
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
