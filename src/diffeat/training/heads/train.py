"""Training a dense head on the maps of a recipe: linear, semantic FPN or UPerNet; labels, depth or normals.

Features are frozen, and then each drawn piece of a picture may be read into a store once; or the diffusion model is
tuned with the head (:mod:`diffeat.tasks.dense.tuned`), with gradient checkpointing, and everything is read anew. The
training is a run of :class:`~diffeat.training.loop.Loop`: what a step learns from is a function of its number, so that
it goes on where it was stopped and ends in the same weights.

Started by ``accelerate launch`` in several processes, each takes its share of every batch; gradients are averaged and
the first process writes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from diffeat.ambient import neutral, seeded
from diffeat.errors import DatasetError
from diffeat.evaluation.features import feature_folder
from diffeat.features import FeatureMap, Source
from diffeat.files import new_folder
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.tasks.dense import DenseHead
from diffeat.tasks.dense.options import DenseOptions
from diffeat.tasks.predictors.evaluate import Scored, evaluate_head
from diffeat.tasks.predictors.folder import FILES, TRAINING, PredictorFacts
from diffeat.tasks.predictors.predictor import Predictor, model_of
from diffeat.tasks.predictors.scores import Scores
from diffeat.training import checkpoint
from diffeat.training.heads.examples import Batch, Examples, Feed, Fresh, Remembered, Stored, ahead
from diffeat.training.heads.prepare import check_alike, check_files, network_of, shown, windows_of, with_gradients
from diffeat.training.heads.truth import Data, Truth, truth_of
from diffeat.training.heads.workers import Workers
from diffeat.training.loop import Loop, Schedule, Values

BEST = "best.safetensors"
#: Pictures that a report shows.
SHOWN = 6


@dataclass(frozen=True)
class Trained:
    """The outcome of a training.

    Attributes:
        folder: The run folder.
        predictor: With the weights that were kept: the best by validation, the last without.
        step: Of these weights.
        scored: The validation pictures by these weights; ``None`` without any.
        losses: Of each step.
        notes: What a reader of the numbers must know.
    """

    folder: Path
    predictor: Predictor
    step: int
    scored: Scored | None
    losses: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def scores(self) -> Scores | None:
        """Of :attr:`scored`."""
        return None if self.scored is None else self.scored.scores


@neutral()
def train_dense(
    source: Source[FeatureMap],
    data: Data,
    folder: str | Path,
    options: DenseOptions | None = None,
    *,
    validation: Data | None = None,
    prompt: str | None = None,
    features: str | Path | None = None,
    store_dtype: str = "float32",
    on_validation: Callable[[int, Scores], None] = lambda step, scores: None,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
    force: bool = False,
) -> Trained:
    """Train a head, and write its run folder; an earlier training there is gone on with.

    Args:
        source: Of the maps; its recipe leaves them apart (:func:`diffeat.tasks.dense.maps_apart`).
        data: Pictures to learn from: a :class:`~diffeat.datasets.MaskDataset`, or one of depth or normals.
        validation: Pictures to choose the best step on.
        prompt: Text for all pictures; the recipe's own if not given.
        features: Folder of stored features, to share between trainings; inside ``folder`` if not given.
        tell: Told what is found and done, in lines.
        force: Whether files of the run folder may be replaced.

    Raises:
        DatasetError: There is nothing to learn from, or a file cannot be used.
        InvalidValueError: The options do not fit the recipe or the data, or the folder holds another training.
        StoreError: A folder cannot be written.
    """
    options, folder, workers = options or DenseOptions(), Path(folder), Workers()
    if workers.first:
        new_folder(folder, FILES, force=force)
    else:
        progress, tell, on_validation = silent, lambda line: None, lambda step, scores: None
    if not len(data):
        raise DatasetError(f"{data.name} {data.split} holds no pictures to learn from.".replace("  ", " "))
    truth = truth_of(data)
    notes = [*data.notes, *check_alike(data, validation), *truth.check(data, progress)]
    if not options.draws:  # otherwise all are read into a store before the first step
        check_files(data, progress=progress)
    if validation is not None:
        check_files(validation, truth, progress)
    options, side = shown(source, data, options)
    fingerprint, model = source.fingerprint, model_of(source)
    examples = Examples(data, truth, options, side)
    network, tuned = network_of(source, examples, truth, prompt)
    tell(f"{network.layout}")
    for note in notes:
        tell(f"Note: {note}")
    head = DenseHead(network, positive=truth.positive, tuned=tuned)
    facts = PredictorFacts(
        kind=head.kind,
        target=truth.target,
        classes=truth.classes,
        colours=truth.colours,
        prompt=prompt,
        windows=windows_of(side, options),
        model=model,
    )
    run = _Run(options, folder / TRAINING, data, truth, head, workers, source.recipe.hash)
    with ExitStack() as stack:
        frozen: Source[FeatureMap] = source
        store = None
        if tuned is None and (options.draws or validation is not None):
            place = feature_folder(Path(features or folder / TRAINING), source)
            store = stack.enter_context(FeatureStore.of(workers.own(place), source, store_dtype))
            frozen = Remembered(source, store)
        if options.draws and store is not None:
            feed: Feed = Stored(examples, source, prompt, store, progress)
        else:
            feed = Fresh(examples, source if tuned is None else with_gradients(source), prompt)
        predictor = Predictor(frozen, head, facts)
        predictor.facts = predictor.facts.model_copy(update={"fingerprint": fingerprint})
        scored: dict[int, Scores] = {}

        def validated() -> float:
            scored[run.loop.step] = evaluate_head(predictor, validation or data).scores
            return scored[run.loop.step].merit

        run.train(
            feed,
            validate=None if validation is None else validated,
            on_validation=lambda step, _: on_validation(step, scored[step]),
            progress=progress,
        )
        step = run.restore()
        best = None if validation is None else evaluate_head(predictor, validation, shown=SHOWN)
    lines = _about(data, options, step, best)
    predictor.source = source
    predictor.facts = predictor.facts.model_copy(update={"notes": (*lines, *notes)})
    if workers.first:
        predictor.save(folder, force=True)
    return Trained(folder, predictor, step, best, tuple(run.loop.losses), (*lines, *notes))


class _Run:
    """The steps of a training, and its files."""

    def __init__(
        self,
        options: DenseOptions,
        folder: Path,
        data: Data,
        truth: Truth,
        head: DenseHead,
        workers: Workers,
        recipe: str,
    ) -> None:
        self._options, self._folder, self._truth, self._head, self._workers = options, folder, truth, head, workers
        network, tuned = head.network.train(), head.tuned
        optimisers = {"optimiser": torch.optim.AdamW(network.parameters(), options.rate, weight_decay=options.decay)}
        parts: dict[str, Any] = {"network": network}
        if tuned is not None:
            optimisers["tuned"] = torch.optim.AdamW(tuned.parameters(), options.tune_rate, weight_decay=options.decay)
            parts["weights"] = tuned
        longer = options.schedule == "constant"  # such a training may go on past its end
        how = options.model_dump(exclude={"every", "steps"} if longer else {"every"})
        identity = {**how, "data": f"{data.name} {data.split}", "pictures": len(data), "recipe": recipe}
        identity["classes"] = f"{len(truth.classes)} ({hashlib.sha256(repr(truth.classes).encode()).hexdigest()[:8]})"
        self.loop = Loop(
            folder,
            Schedule(options.steps, options.every, options.share),
            optimisers,
            parts,
            identity,
            ("loss", "waited"),
            writes=workers.first,
        )
        self._network = workers.wrapped(network)

    def train(self, feed: Feed, **arguments: Any) -> None:
        options, workers = self._options, self._workers
        batches = range(self.loop.step * options.accumulate, options.steps * options.accumulate)
        ready = ahead(lambda number: feed.ready(workers.share(number, options.batch)), batches)
        device = next(self._head.network.parameters()).device

        def gradients(number: int) -> Values:
            self._network.train()
            total, waited = 0.0, 0.0
            with seeded((options.seed << 32) + number * workers.count + workers.rank, device):
                for _ in range(options.accumulate):
                    began = time.perf_counter()
                    made = next(ready)
                    waited += time.perf_counter() - began
                    loss = self._loss(feed.batch(cast(Any, made), self._head.network.layout.names), device)
                    (loss / options.accumulate).backward()
                    total += float(loss.detach()) / options.accumulate
            if self._head.tuned is not None:
                workers.average(self._head.tuned.parameters())
            return {"loss": workers.mean(total), "waited": waited}

        self.loop.run(gradients, keep=self._keep, **arguments)

    def _loss(self, batch: Batch, device: torch.device) -> Tensor:
        options = self._options
        maps = {name: values.to(device, torch.float32) for name, values in batch.maps.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            scores, second = self._network(maps)
        loss = self._of(scores, batch)
        return loss if second is None else loss + options.auxiliary * self._of(second, batch)

    def _of(self, scores: Tensor, batch: Batch) -> Tensor:
        scores = scores.float()
        enlarged, known = batch.scored(scores.exp() if self._truth.positive else scores)
        return self._truth.loss(enlarged, known, self._options)

    def _keep(self) -> None:
        if self._workers.first:
            checkpoint.save(self._folder / BEST, self._head.state(), {"step": self.loop.step})

    def restore(self) -> int:
        """Take the weights that were kept; gives their step."""
        self._workers.wait()
        state, facts = checkpoint.load(self._folder / BEST)
        self._head.load(state)
        return facts["step"]


def _about(data: Data, options: DenseOptions, step: int, best: Scored | None) -> list[str]:
    """What a card and a report say of the training."""
    shown = {"whole": "whole pictures", "square": "squares of the shorter side"}.get(
        str(options.crop), f"crops of {options.crop}×{options.crop} pixels"
    )
    tuned = [] if options.tune == "none" else [f"{options.tune} tuned at {options.tune_rate:g}"]
    tuned += ["text learned"] if options.learn_text else []
    lines = [
        f"head {options.head} on {len(data)} pictures of {data.name} {data.split}".rstrip()
        + f": {shown}, {options.steps} steps of {options.batch * options.accumulate}, rate {options.rate:g}, "
        + ", ".join([f"seed {options.seed}", *tuned])
    ]
    if best is not None:
        lines += [f"step {step}, the best of the validations, so that its number is a maximum", *str(best).splitlines()]
    return lines
