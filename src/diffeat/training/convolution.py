"""Training of a convolution over joined maps on pairs of pictures with common points (``--algorithm conv`` of Generic
Diffusion Feature, Meng et al., NeurIPS 2024).

The published training, the defaults here: maps at 128×128, the symmetric keypoint loss
(:mod:`diffeat.training.hyperfeatures.loss`) at a fixed temperature, AdamW at 5e-4 with decay 0.01, one pair per step,
two times 5,000 steps. Theirs draws 5,000 of all pairs for each half; here no pair comes again before all were seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffeat.datasets.pairs import PairDataset
from diffeat.errors import InvalidValueError
from diffeat.evaluation.features import Kept
from diffeat.extraction import Extractor, Joined, Reading, Recipe
from diffeat.extraction.joined import concatenated
from diffeat.extraction.joins.convolution import WEIGHTS_FILE, convolved, new_convolution, save_convolution
from diffeat.features import FeatureMap
from diffeat.files import new_folder
from diffeat.geometry import file_digest
from diffeat.progress import Progress, silent
from diffeat.refinement import concatenate
from diffeat.tasks.correspondence import PckResult, Protocol
from diffeat.training.hyperfeatures.examples import Examples, points_in_cells, usable_pairs
from diffeat.training.hyperfeatures.loss import keypoint_loss, nearest_cells
from diffeat.training.hyperfeatures.maps import Described, MapSource, PictureMaps
from diffeat.training.hyperfeatures.prepare import prepare
from diffeat.training.hyperfeatures.recipes import RECIPE_FILE
from diffeat.training.hyperfeatures.run import Storage, TrainingData
from diffeat.training.hyperfeatures.score import score
from diffeat.training.loop import STATE, Loop, Schedule


@dataclass(frozen=True)
class ConvolutionSettings:
    """How a convolution is trained. The defaults are the paper's.

    Attributes:
        every: Steps between validations; the state is saved as often.
        seed: Of the first weights and the order of the pairs.
    """

    steps: int = 10_000
    lr: float = 5e-4
    weight_decay: float = 0.01
    every: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Convolved:
    """The outcome of a training.

    Attributes:
        recipe: File of the recipe; every command takes it.
        step: Of the weights that were kept: the best by validation, the last without.
        validation: Of these weights; ``None`` without validation pairs, or where an earlier run measured them.
        pictures: In training and validation.
    """

    recipe: Path
    step: int
    validation: PckResult | None
    losses: tuple[float, ...]
    pictures: int


class JoinedMaps:
    """Joined maps of pictures, made of the maps of every model whenever they are asked for."""

    def __init__(self, parts: Sequence[Reading], sources: Sequence[MapSource], keep: int = 24) -> None:
        self._parts, self._sources = parts, sources
        self._kept: Kept[Path, PictureMaps] = Kept(keep, lambda maps: maps.bytes)

    def maps(self, path: Path) -> PictureMaps:
        """One layer with one step."""
        return self._kept.get_or_make(path, lambda: self._joined(path))

    def _joined(self, path: Path) -> PictureMaps:
        features = []
        for part, source in zip(self._parts, self._sources, strict=True):
            read = source.maps(path)
            maps = [step for layer in read.layers for step in layer]
            fuse = part.fuse
            joined = concatenate(maps) if fuse is None else concatenate(maps, fuse.grid, fuse.normalise, fuse.resize)
            features.append(FeatureMap({"fused": joined}, read.frame, str(path)))
        return PictureMaps((concatenated(features).cpu()[None],), features[0].frame)


def parts_of(recipe: Recipe) -> list[Reading]:
    """The diffusion models whose maps a recipe joins, each with the text that all read.

    Raises:
        InvalidValueError: A part is no diffusion model, has views or a trained join, or they are joined by weights.
    """
    joined = isinstance(recipe, Joined)
    if joined and recipe.join != "concat":
        raise InvalidValueError(
            f"{recipe.name!r} joins by {recipe.join!r}; a convolution is trained over join 'concat'."
        )
    parts = []
    for part in recipe.parts if joined else (recipe,):
        if not isinstance(part, Reading) or part.views or (part.fuse is not None and part.fuse.kind != "concat"):
            raise InvalidValueError(
                f"A convolution is trained over the joined maps of diffusion models (fuse 'concat', no views); "
                f"{part.name!r} is something else."
            )
        told = part.replace(prompt=recipe.prompt, template=recipe.template)
        parts.append(told if told.fuse else told.replace(fuse={"kind": "concat"}))
    return parts


def train_convolution(
    recipe: Recipe,
    extractors: Sequence[Extractor],
    data: TrainingData,
    out: Path,
    settings: ConvolutionSettings | None = None,
    *,
    storage: Storage | None = None,
    progress: Progress = silent,
    on_validation: Callable[[int, PckResult], None] | None = None,
    force: bool = False,
) -> Convolved:
    """Train a convolution over a recipe's joined maps; an earlier run in ``out`` is gone on with.

    Args:
        recipe: Of one model, or of several joined by ``concat``.
        extractors: Of each of :func:`parts_of` the recipe, without fusion.
        out: Gets ``recipe.yaml``, ``convolution.safetensors``, ``log.csv``, ``state.safetensors`` and the maps.
        storage: Where maps rest; in ``out`` by default.
        force: Whether the recipe of a training that ended there may be replaced.

    Raises:
        DatasetError: The training set is empty, or a picture cannot be used.
        InvalidValueError: The recipe joins otherwise, or settings do not fit the earlier run in ``out``.
        NonFiniteError: The loss became NaN.
    """
    settings, storage = settings or ConvolutionSettings(), storage or Storage()
    new_folder(out, results_in(out), force=force)
    usable_pairs(data.pairs)  # an empty set is reported before anything is extracted
    parts = parts_of(recipe)
    datasets = [data.pairs] if data.validation is None else [data.pairs, data.validation]
    with ExitStack() as stack:
        ready = [
            stack.enter_context(
                prepare(
                    extractor, datasets, storage.folder or out, prompts=data.texts(recipe), dtype=storage.dtype,
                    limit=storage.limit, progress=progress,
                )
            )
            for extractor in extractors
        ]  # fmt: skip
        joined = JoinedMaps(parts, [r.source for r in ready])
        network = new_convolution(sum(sum(r.channels) for r in ready), len(parts), settings.seed)
        network.to(extractors[0].backbone.device)
        examples = Examples(data.pairs, joined, settings.seed)
        loop = Loop(
            out,
            Schedule(settings.steps, settings.every),
            {"optimiser": torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=settings.weight_decay)},
            {"network": network},
            {
                **{name: value for name, value in asdict(settings).items() if name != "steps"},
                "training pairs": len(examples.pairs),
                "recipes": [part.hash for part in parts],
            },
            ("pair", "loss"),
        )

        def gradients(number: int) -> dict[str, float | str]:
            example = examples[number]
            loss = pair_loss(network, *example.maps, *example.points)
            loss.backward()
            return {"pair": example.name, "loss": float(loss.detach())}

        results: dict[int, PckResult] = {}

        def measured(pairs: PairDataset, protocol: Protocol) -> float:
            described = Described(joined, lambda maps: convolved(network, maps.layers[0][0]))
            results[loop.step] = score(pairs, described, protocol)
            return results[loop.step].value

        validate = None
        if (held_out := data.validation) is not None and (protocol := data.protocol) is not None:
            validate = lambda: measured(held_out, protocol)  # noqa: E731
        loop.run(
            gradients,
            keep=lambda: save_convolution(network, out / WEIGHTS_FILE),
            validate=validate,
            on_validation=None if on_validation is None else lambda step, _: on_validation(step, results[step]),
            progress=progress,
        )
    weights = {"source": WEIGHTS_FILE, "sha256": file_digest(out / WEIGHTS_FILE)}
    words = f"Convolution on {data.pairs.name} {data.pairs.split}, {settings.steps} steps from seed {settings.seed}"
    trained = Joined.from_dict(
        {
            "name": out.name,
            "description": f"{words}; {recipe.description}",
            "source": recipe.source,
            "prompt": recipe.prompt,
            "template": recipe.template,
            "tasks": recipe.tasks,
            "parts": parts,
            "join": "convolution",
            "network": weights,
        }
    )
    trained.save(out / RECIPE_FILE, force=True)
    step = loop.best[0] if loop.best else loop.step
    return Convolved(out / RECIPE_FILE, step, results.get(step), tuple(loop.losses), ready[0].pictures)


def results_in(folder: Path) -> list[str]:
    return [RECIPE_FILE] if (folder / STATE).is_file() else [RECIPE_FILE, WEIGHTS_FILE]


def pair_loss(
    network: nn.Conv2d, source: PictureMaps, target: PictureMaps, source_points: Tensor, target_points: Tensor
) -> Tensor:
    """The symmetric keypoint loss of one pair, whose points (n, 2) are (x, y) in original pixels."""
    device = network.weight.device
    described, cells = [], []
    for maps, points in ((source, source_points), (target, target_points)):
        (layer,) = maps.layers
        described.append(network(layer.to(device, torch.float32))[0])
        grid = (layer.shape[-2], layer.shape[-1])
        cells.append(nearest_cells(points_in_cells(points, maps.frame, grid, "index"), grid).to(device))
    return keypoint_loss(described[0], described[1], cells[0], cells[1])
