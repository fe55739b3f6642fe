"""What is predicted, and how it is decided from what a head says. A target is a class and a line in :data:`TARGETS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeat.datasets.coding import colour_map
from diffeat.errors import InvalidValueError
from diffeat.tasks.predictors.head import Opinion, entropy


@dataclass(frozen=True)
class Legend:
    """What the numbers of a prediction mean.

    Attributes:
        classes: Name of every label; of a regression, of every channel.
        colours: (red, green, blue) of every label, 0…255.
        void: The label of pixels that do not count.
    """

    classes: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    void: int = 255

    def __post_init__(self) -> None:
        if not self.colours:
            colours = (colour_map(min(len(self.classes), 256)) * len(self.classes))[: len(self.classes)]
            object.__setattr__(self, "colours", colours)
        if len(self.colours) != len(self.classes):
            raise InvalidValueError(f"{len(self.classes)} classes need as many colours, got {len(self.colours)}.")
        if len(set(self.classes)) != len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise InvalidValueError(f"The class {twice!r} is named twice.")

    def check(self, classes: Sequence[str], what: str) -> None:
        """Refuse data of other classes.

        Raises:
            InvalidValueError: Naming the first that differs.
        """
        if tuple(classes) == self.classes:
            return
        pairs = zip([*classes, *[None] * len(self.classes)], [*self.classes, *[None] * len(classes)], strict=True)
        k, (theirs, ours) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InvalidValueError(
            f"{what} has {len(classes)} classes, the run {len(self.classes)}; label {k} is {theirs!r} there and "
            f"{ours!r} in the run. Give data with the classes that the run was trained on, in their order."
        )


class Target(ABC):
    """A kind of prediction.

    Attributes:
        name: In a run folder.
        of_pixels: Whether every pixel gets a value; a whole picture does otherwise.
        discrete: Whether values are classes, of which there are probabilities.
    """

    name: ClassVar[str]
    of_pixels: ClassVar[bool] = True
    discrete: ClassVar[bool] = False

    @abstractmethod
    def values(self, opinion: Opinion, legend: Legend) -> Tensor:
        """The prediction (…) or (c, …) of what is said (k, …)."""

    def channels(self, legend: Legend) -> int:
        """How many scores a head gives."""
        return len(legend.classes)


class Labels(Target):
    """A class for every pixel: the one of the highest score, the first of equals."""

    name = "labels"
    discrete = True

    def values(self, opinion: Opinion, legend: Legend) -> Tensor:
        """(…) labels, of the smallest type that holds them."""
        labels = opinion.scores.argmax(0)
        return labels.to(torch.uint8 if len(legend.classes) <= 255 else torch.int32)


class Classes(Labels):
    """A class for the whole picture."""

    name = "classes"
    of_pixels = False


class Depth(Target):
    """A distance for every pixel, in the unit of the training data."""

    name = "depth"

    def values(self, opinion: Opinion, legend: Legend) -> Tensor:
        """(…) float32."""
        return opinion.scores[0].float()

    def channels(self, legend: Legend) -> int:
        """One."""
        return 1


class Normals(Target):
    """The direction that every pixel's surface faces."""

    name = "normals"

    def values(self, opinion: Opinion, legend: Legend) -> Tensor:
        """(3, …) float32, of unit length."""
        return torch.nn.functional.normalize(opinion.scores.float(), dim=0)

    def channels(self, legend: Legend) -> int:
        """x, y and z."""
        return 3


#: By name.
TARGETS: dict[str, Target] = {target.name: target for target in (Labels(), Classes(), Depth(), Normals())}


@dataclass(frozen=True)
class Verdict:
    """What is decided of some pixels, or of a picture.

    Attributes:
        values: See :meth:`Target.values`.
        confidence: (…) probability of the class that is chosen; ``None`` of regressions.
        uncertainty: (…) in nats, where there is one.
        probabilities: (k, …), where they are asked for.
    """

    values: NDArray[np.generic]
    confidence: NDArray[np.float32] | None = None
    uncertainty: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float32] | None = None


def decide(opinion: Opinion, target: Target, legend: Legend, probabilities: bool = False) -> Verdict:
    """The prediction, and how sure it is.

    Args:
        probabilities: Whether those of all classes are wanted.
    """
    values, uncertainty = target.values(opinion, legend), opinion.uncertainty
    if not target.discrete:
        return Verdict(values.cpu().numpy(), uncertainty=_plain(uncertainty))
    shares = opinion.probabilities if opinion.probabilities is not None else opinion.scores.float().softmax(0)
    confidence = shares.gather(0, values.long()[None])[0]
    doubt = entropy(shares) if uncertainty is None else uncertainty
    return Verdict(values.cpu().numpy(), _plain(confidence), _plain(doubt), _plain(shares) if probabilities else None)


def _plain(values: Tensor | None) -> NDArray[np.float32] | None:
    return None if values is None else values.float().cpu().numpy()
