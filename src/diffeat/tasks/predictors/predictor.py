"""Predictions by a trained head: whole or in windows, one picture or a stream of them, with how sure they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffeat.ambient import neutral
from diffeat.backbones.fingerprint import in_any_precision
from diffeat.backbones.placement import device_of
from diffeat.errors import DiffeatError, InvalidValueError, ModelError
from diffeat.extraction import Recipe, load_source
from diffeat.features import FeatureMap, Images, OnError, Picture, Source
from diffeat.features.picture import several
from diffeat.features.streaming import raise_error
from diffeat.notebook import Displayed, Html, notes, pictures, table
from diffeat.tasks.predictors.folder import PredictorFacts, find_run, read_run, write_run
from diffeat.tasks.predictors.head import Head, PictureHead, PixelHead
from diffeat.tasks.predictors.registry import head_of
from diffeat.tasks.predictors.target import TARGETS, Legend, Target, Verdict, decide
from diffeat.tasks.predictors.windows import Mosaic, Windows


@dataclass(frozen=True, repr=False)
class Prediction(Displayed):
    """What is predicted of a picture, at its own size; arrays are (H, W) where nothing else is said.

    Attributes:
        name: Of the picture.
        image: The picture.
        target: What is predicted.
        values: Labels (uint8, or int32 from 256 classes on), depth (float32), normals (3, H, W); the number of the
            class, of a whole picture.
        confidence: Probability of the class that is predicted.
        uncertainty: In nats: how the probabilities, or the members of an ensemble, are spread.
        probabilities: (classes, H, W), if they were asked for; always of a whole picture, (classes,).
    """

    name: str
    image: Image.Image
    target: Target
    legend: Legend
    values: NDArray[np.generic]
    confidence: NDArray[np.float32] | None = None
    uncertainty: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float32] | None = None

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        return self.name, {"target": self.target.name, "picture": f"{self.image.width}×{self.image.height}"}

    def _details(self) -> Iterator[Html]:
        yield pictures([(self.name, self.image)])
        largest = sorted(self.shares.items(), key=lambda share: -share[1])
        if largest:
            yield table(
                ["class", "share" if self.target.of_pixels else "probability"], [[n, f"{v:.1%}"] for n, v in largest]
            )

    @property
    def shares(self) -> dict[str, float]:
        """Of pixels: the share of every class that occurs. Of a picture: the probability of every class."""
        if not self.target.of_pixels and self.probabilities is not None:
            return {name: float(p) for name, p in zip(self.legend.classes, self.probabilities, strict=True)}
        if not self.target.discrete:
            return {}
        counts = np.bincount(np.asarray(self.values).ravel(), minlength=len(self.legend.classes))
        return {n: float(c / counts.sum()) for n, c in zip(self.legend.classes, counts, strict=True) if c}


class Predictor(Displayed):
    """A recipe's source and the head that was trained on its features.

    Args:
        source: Of the features.
        head: Of a kind that suits the target.
        facts: What is predicted; what belongs to source and head is filled in.

    Example:
        >>> from diffeat import Predictor                                        # doctest: +SKIP
        >>> predictor = Predictor.load("run")                                    # doctest: +SKIP
        >>> for prediction in predictor.predict("photos/*.jpg"):                 # doctest: +SKIP
        ...     print(prediction.name, prediction.shares)
    """

    def __init__(self, source: Source[FeatureMap], head: Head, facts: PredictorFacts) -> None:
        self.source, self.head = source, head
        self.target, self.legend = TARGETS[facts.target], facts.legend
        if isinstance(head, PictureHead) == self.target.of_pixels:
            raise InvalidValueError(f"A head of kind {head.kind!r} does not predict {facts.target}.")
        self.facts = facts.model_copy(
            update={
                "kind": head.kind,
                "settings": head.settings,
                "recipe": source.recipe.hash,
                "fingerprint": source.fingerprint,
                "precision": source.precision,
                "model": facts.model or model_of(source),
                "colours": self.legend.colours,
            }
        )

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        facts: dict[str, object] = {"recipe": self.source.recipe.name, "head": self.head.kind}
        return self.target.name, {**facts, "classes": ", ".join(self.legend.classes)} if self.legend.classes else facts

    def _details(self) -> Iterator[Html]:
        yield notes(self.facts.notes)

    @classmethod
    @neutral()
    def load(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        batch_size: int | None = None,
        allow_code: bool = False,
    ) -> Predictor:
        """Load a run folder, or one that lies in a repository of the Hugging Face hub.

        Args:
            name: The folder, or ``owner/name`` on the hub.
            revision: Of the repository.
            device: Of model and head; the first accelerator if there is one.
            dtype: Precision of the model; as of :func:`~diffeat.load_source`.
            batch_size: Rows of one denoiser call.
            allow_code: Import functions that the recipe names.

        Raises:
            InvalidValueError: The folder is not whole, or its parts are not of one training.
            ModelError: The model or the head cannot be loaded, or the model is another than at training.
        """
        run = read_run(find_run(name, revision=revision), allow_code=allow_code)
        source = load_source(run.recipe, device=device, dtype=dtype, batch_size=batch_size)
        facts = run.facts
        alike = facts.precision == source.precision
        if facts.fingerprint != source.fingerprint if alike else facts.model != model_of(source):
            raise ModelError(
                f"The head in {run.folder} was trained on another model than {_models(run.recipe)} is here: its "
                "weights or configuration differ. Give the recipe the model of the training, or train again."
            )
        try:
            head = head_of(facts.kind).of(facts.settings, run.state, source)
        except DiffeatError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"The head in {run.folder} is damaged ({type(error).__name__}: {error}).") from None
        return cls(source, head.to(device_of(device)), facts)

    from_pretrained = load

    def cut_by(self, windows: Windows | Literal["whole"] | None) -> Predictor:
        """The same, which cuts pictures into other windows where nothing else is asked; ``None`` changes nothing."""
        if windows is None:
            return self
        cut = windows if isinstance(windows, Windows) else None
        return Predictor(self.source, self.head, self.facts.model_copy(update={"windows": cut}))

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the run folder; returns it.

        Args:
            force: Whether its files may be replaced.

        Raises:
            InvalidValueError: One of them is there already.
        """
        recipe = self.source.recipe
        if not isinstance(recipe, Recipe):
            raise InvalidValueError("Only heads on a recipe can be saved; this source has none.")
        return write_run(Path(folder), recipe, self.facts, self.head.state(), force=force)

    def predict(
        self,
        images: Images,
        *,
        windows: Windows | Literal["whole"] | None = None,
        probabilities: bool = False,
        prompt: str | None = None,
        on_error: OnError = raise_error,
    ) -> Iterator[Prediction]:
        """Predictions of pictures, in their order; a few windows are held in memory.

        Args:
            images: A picture or several: paths, globs, PIL images, arrays, frames of a video, float tensors
                ``(3, H, W)`` or ``(B, 3, H, W)`` in [0, 1].
            windows: How large pictures are cut; ``"whole"`` does not cut; ``None`` as the training says.
            probabilities: Whether those of all classes are wanted, (classes, H, W).
            prompt: Text for the pictures; the training's if not given.
            on_error: What to do with a picture that fails; raises by default.

        Raises:
            InvalidValueError: Windows for a head that judges whole pictures, or features that do not fit the head.
        """
        if not self.target.of_pixels and isinstance(windows, Windows):
            raise InvalidValueError("Windows belong to heads that judge pixels; this one judges whole pictures.")
        cut = self.facts.windows if windows is None else windows if isinstance(windows, Windows) else None
        waiting: deque[_Canvas] = deque()

        def report(name: str, error: DiffeatError) -> None:
            """A window that fails takes its picture with it, once."""
            canvas = next((c for c in waiting if name in c.names and not c.failed), None)
            if canvas is not None:
                canvas.failed = True
                on_error(canvas.picture.name, error)

        def windows_of_all() -> Iterator[Picture]:
            for number, image in enumerate(several(images), 1):
                try:
                    canvas = _Canvas(Picture.of(image), cut)
                except DiffeatError as error:
                    on_error(image.name if isinstance(image, Picture) else f"picture {number}", error)
                    continue
                waiting.append(canvas)
                yield from canvas.windows()

        text = self.facts.prompt if prompt is None else prompt
        for features in self.source.stream(windows_of_all(), text, on_error=report):
            while waiting[0].failed and features.image not in waiting[0].names:
                waiting.popleft()
            canvas = waiting[0]
            if canvas.failed:
                continue
            with torch.no_grad(), neutral():
                done = canvas.take(features, self, probabilities)
            if done is not None:
                waiting.popleft()
                yield done


class _Canvas:
    """A picture while its windows come in.

    Args:
        cut: How it is cut; whole if ``None``, and then not opened before it is its turn.
    """

    def __init__(self, picture: Picture, cut: Windows | None) -> None:
        self.picture = picture
        self.failed = False
        self._image: Image.Image | None = None
        self._blend: Literal["hat", "mean"] = cut.blend if cut else "mean"
        self._boxes = cut.boxes(self._opened().size) if cut else []
        count = len(self._boxes)
        self.names = [f"{picture.name} (window {k + 1} of {count})" for k in range(count)] if cut else [picture.name]
        self._next = 0
        self._mosaic: Mosaic | None = None
        self._strips: list[Verdict] = []

    def _opened(self) -> Image.Image:
        if self._image is None:
            self._image = self.picture.image
        return self._image

    def windows(self) -> Iterator[Picture]:
        """One picture for each window."""
        if not self._boxes:
            whole = Picture(self.picture.name, self._opened, text=self.picture.text)
            whole.is_file = self.picture.is_file
            yield whole
        for name, box in zip(self.names, self._boxes, strict=bool(self._boxes)):
            yield Picture(name, partial(self._opened().crop, box), text=self.picture.text)

    def take(self, features: FeatureMap, predictor: Predictor, probabilities: bool) -> Prediction | None:
        """The features of the next window; the prediction after the last."""
        head, target, legend = predictor.head, predictor.target, predictor.legend
        if isinstance(head, PictureHead):
            return self._prediction(decide(head.judge(features), target, legend, True), predictor)
        assert isinstance(head, PixelHead)
        if self._mosaic is None:
            self._boxes = self._boxes or [(0, 0, *self._opened().size)]
            self._mosaic = Mosaic(self._opened().size, target.channels(legend), self._blend)
        box, self._next = self._boxes[self._next], self._next + 1
        following = self._boxes[self._next] if self._next < len(self._boxes) else None
        for _, opinion in self._mosaic.add(box, head.over(features), following):
            self._strips.append(decide(opinion, target, legend, probabilities))
        return None if following is not None else self._prediction(_stacked(self._strips), predictor)

    def _prediction(self, verdict: Verdict, predictor: Predictor) -> Prediction:
        return Prediction(
            self.picture.name,
            self._opened(),
            predictor.target,
            predictor.legend,
            verdict.values,
            verdict.confidence,
            verdict.uncertainty,
            verdict.probabilities,
        )


def model_of(source: Source[FeatureMap]) -> str:
    """The fingerprint of a source that is the same in every precision."""
    with in_any_precision():
        return source.fingerprint


def _stacked(strips: Sequence[Verdict]) -> Verdict:
    """Strips of rows as one."""

    def joined(name: str) -> NDArray | None:
        parts = [getattr(strip, name) for strip in strips]
        return None if parts[0] is None else np.concatenate(parts, axis=-2)

    values = joined("values")
    assert values is not None
    return Verdict(values, joined("confidence"), joined("uncertainty"), joined("probabilities"))


def _models(recipe: Recipe) -> str:
    return " + ".join(str(getattr(part, "model", part.name)) for part in recipe.single())
