"""Features of a dataset's pictures: each extracted once, kept in a store, read when they are needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor

from diffeat.datasets.pairs import PairDataset
from diffeat.errors import DatasetError, InvalidValueError, UnknownNameError, did_you_mean
from diffeat.extraction import extract_to_store
from diffeat.features import FeatureMap
from diffeat.geometry import open_image
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.tasks.correspondence.match import Matching, Target, pick

if TYPE_CHECKING:
    from diffeat.extraction import Summary


@runtime_checkable
class FeatureSource(Protocol):
    """What gives features of pictures: :class:`diffeat.Extractor`, a vision model, or a fusion of several.

    Its recipe has ``name``, ``prompt``, ``hash``, ``content()`` and ``text_for(prompt)``, as
    :class:`diffeat.Recipe` has. ``fingerprint`` tells its weights from others ("" where there are none).
    """

    @property
    def recipe(self) -> Any: ...
    @property
    def fingerprint(self) -> str: ...
    def stream(self, images: Any, prompts: Any = None, *, on_error: Any = ...) -> Iterator[FeatureMap]: ...


class Loads(Protocol):
    """What gives stored features by the picture's name: a feature store, or something that joins its maps."""

    def load(self, key: str, activations: Sequence[str] | None = None) -> FeatureMap: ...


#: ``None``: the recipe's own text. ``"category"``: the picture's category through the recipe's template. Another
#: string: a template with ``{category}``. A mapping: text per category.
PromptPolicy = str | Mapping[str, str] | None


def picture_texts(dataset: PairDataset, policy: PromptPolicy, template: str = "{}") -> dict[Path, str | None]:
    """The text for every picture of a dataset.

    Args:
        policy: See :data:`PromptPolicy`.
        template: The recipe's own; with ``"{}"``, policy ``"category"`` says "a photo of a {category}".

    Raises:
        UnknownNameError: A category has no text.
        InvalidValueError: Categories are wanted but the dataset has none, or a picture has two texts.
    """
    texts: dict[Path, str | None] = {}
    for pair in dataset:
        text = category_text(pair.category, policy, template)
        for path in (pair.source, pair.target):
            if texts.setdefault(path, text) != text:
                raise InvalidValueError(
                    f"{path} belongs to pairs of two categories and would get two texts ({texts[path]!r} and "
                    f"{text!r}). Use a text without the category."
                )
    return texts


def category_text(category: str, policy: PromptPolicy, template: str) -> str | None:
    """The text for a picture of ``category``; ``None`` leaves it to the recipe. Raises as :func:`picture_texts`."""
    if policy is None:
        return None
    if isinstance(policy, Mapping):
        if category not in policy:
            raise UnknownNameError(
                f"There is no text for category {category!r}. {did_you_mean(category, policy)}".rstrip()
            )
        return policy[category]
    if policy != "category" and "{category}" not in policy:
        return policy
    if not category:
        raise InvalidValueError("The dataset has no categories: use prompts that do not ask for one.")
    if policy == "category":
        return category if template != "{}" else f"a photo of a {category}"
    return policy.replace("{category}", category)


class PictureFeatures:
    """Features of pictures by path, from a store, with the last few kept ready.

    Args:
        store: Holds them.
        matching: How targets are prepared.
        keep: Pictures kept in memory.
    """

    def __init__(self, store: Loads, matching: Matching, activation: str | None = None, keep: int = 24) -> None:
        self._store = store
        self.matching = matching
        self._activation = activation
        self._keep = keep
        self._maps: OrderedDict[Path, FeatureMap] = OrderedDict()
        self._targets: OrderedDict[Path, Target] = OrderedDict()

    def features(self, path: Path) -> FeatureMap:
        """Features of a picture."""
        return _cached(self._maps, path, self._keep, lambda: self._load(path))

    def target(self, path: Path) -> Target:
        """A picture prepared to be searched."""
        make = lambda: Target(self.features(path), self.matching, self._activation)  # noqa: E731
        return _cached(self._targets, path, self._keep, make)

    def map_of(self, features: FeatureMap) -> Tensor:
        """The map that is matched."""
        return pick(features, self._activation)

    def _load(self, path: Path) -> FeatureMap:
        wanted = None if self._activation is None else [self._activation]
        return self._store.load(path.as_posix(), wanted)


def _cached(cache: OrderedDict, key: Any, keep: int, make: Any) -> Any:
    if key in cache:
        cache.move_to_end(key)
        return cache[key]
    value = cache[key] = make()
    while len(cache) > keep:
        cache.popitem(last=False)
    return value


def extract_pictures(
    extractor: FeatureSource,
    texts: Mapping[Path, str | None],
    store: FeatureStore,
    progress: Progress = silent,
) -> Summary:
    """Extract every picture that the store does not hold yet.

    Raises:
        DatasetError: A picture cannot be extracted: numbers over the rest would not be comparable.
    """
    extractor_like: Any = extractor
    summary = extract_to_store(extractor_like, list(texts), store, list(texts.values()), progress=progress)
    if summary.failed:
        name, reason = next(iter(summary.failed.items()))
        raise DatasetError(
            f"{len(summary.failed)} of {len(texts)} pictures cannot be used, so there is no comparable number. "
            f"The first is {name}: {reason}"
        )
    return summary


def mirrored_pictures(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Write mirrored copies (left and right exchanged, PNG) where they are missing; original path to copy."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = {}
    for path in paths:
        copy = folder / ("-".join(path.parts[-3:]).removesuffix(path.suffix) + ".png")
        if not copy.exists():
            part = copy.with_suffix(".part")
            open_image(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(part, format="PNG")
            part.replace(copy)
        copies[path] = copy
    return copies
