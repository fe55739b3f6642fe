"""Training an amalgamation: on point correspondences, or on labelled pixels.

The views of all pictures are extracted once. On correspondences the assigners (and the output convolution, if any) are
trained with the contrastive loss of the published head; on labelled pixels a linear classifier is trained on top, and
thrown away: what is kept is the mixture. In both, the terms of Eq. 5 act on the weights.

The published correspondence training lets source and target have mixing weights of their own, so that they need not
share a feature space; ``shared`` gives both the mean of their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeat.backbones import Backbone
from diffeat.datasets.labelled import IGNORE, MaskDataset
from diffeat.datasets.pairs import PairDataset
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.evaluation.texts import PromptPolicy, category_text, picture_texts
from diffeat.extraction import Reading, Views
from diffeat.extraction.joins.amalgamation import (
    Amalgamation,
    AmalgamationConfig,
    Kind,
    SparsityWalk,
    entropy,
    regularised,
)
from diffeat.extraction.joins.amalgamation_files import save_amalgamation
from diffeat.extraction.joins.views import MixedViews
from diffeat.geometry import Frame, file_digest
from diffeat.progress import Progress, silent
from diffeat.training.hyperfeatures.loss import keypoint_loss, nearest_cells
from diffeat.training.loop import Loop, Schedule, Values

#: Steps between checkpoints.
_EVERY = 200
#: From the network and a source of examples, the loss of a step and the mixing weights behind it.
Loss = Callable[[Amalgamation, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class AmalgamateSettings:
    """How an amalgamation is trained.

    Attributes:
        kind: ``scalar`` (paper) or ``channel`` (released code).
        assigners: Mixtures side by side.
        convolve: A 3×3 convolution over each mixture.
        sparsity: γ₁ of Eq. 5; with ``released`` it is walked instead.
        diversity: γ₂ of Eq. 5.
        released: Follow the released code where it differs from the paper.
        shared: Source and target of a pair are mixed with the same weights.
    """

    kind: Kind = "channel"
    assigners: int = 1
    convolve: bool = False
    sparsity: float = 0.0
    diversity: float = 0.0
    released: bool = False
    shared: bool = False
    steps: int = 1000
    rate: float = 5e-4
    decay: float = 1e-2
    seed: int = 0


@dataclass(frozen=True)
class Amalgamated:
    """A trained amalgamation.

    Attributes:
        network: In evaluation mode.
        losses: Per step, without the terms of Eq. 5.
        weights: Mean weight of each view, per assigner.
        entropy: Of the weights, 1 is uniform, per assigner.
    """

    network: Amalgamation
    losses: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    entropy: tuple[float, ...]
    names: tuple[str, ...] = field(default=())

    def recipe(self, base: Reading, file: Path) -> Reading:
        """Write the weights, and the recipe that uses them."""
        save_amalgamation(self.network, file)
        fuse = {
            **({} if base.fuse is None else base.fuse.model_dump(exclude={"weights"})),
            "kind": "amalgamation",
            "weights": {"source": str(file), "sha256": file_digest(file)},
        }
        return base.replace(fuse=fuse, name=f"{base.name}-amalgamated")

    def __str__(self) -> str:
        lines = []
        for j, (weights, spread) in enumerate(zip(self.weights, self.entropy, strict=True)):
            shares = ", ".join(f"{n} {w:.3f}" for n, w in zip(self.names, weights, strict=True))
            lines.append(f"assigner {j + 1}: {shares} (entropy {spread:.2f} of uniform)")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Stack:
    views: Tensor
    extra: Tensor | None
    frame: Frame


def train_on_pairs(
    recipe: Reading,
    backbone: Backbone,
    pairs: PairDataset,
    settings: AmalgamateSettings | None = None,
    prompts: PromptPolicy = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Amalgamated:
    """Train on point correspondences.

    Args:
        recipe: Has the views; its fuse gives grid and normalisation.
        pairs: The training pairs, one per step in random order.
        folder: Gets state and log of the training; an earlier one there is gone on with.

    Raises:
        DatasetError: No pair has points.
        InvalidValueError: The recipe has no views.
    """
    settings = settings or AmalgamateSettings()
    usable = [p for p in pairs if p.source_points]
    if not usable:
        raise DatasetError(f"No pair of {pairs.name} has points to learn from.")
    texts = picture_texts(pairs, prompts, recipe.template)
    stacks = _stacks(recipe, backbone, texts, progress)

    def loss_of(network: Amalgamation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pair = usable[int(torch.randint(len(usable), (1,), generator=generator))]
        one, two = stacks[pair.source], stacks[pair.target]
        out, weights = _mixed(network, [one, two], settings.shared)
        grid = (out.shape[-2], out.shape[-1])
        cells = [
            nearest_cells(s.frame.points_to_grid(torch.tensor(points, dtype=torch.float64), grid), grid)
            for s, points in ((one, pair.source_points), (two, pair.target_points))
        ]
        return keypoint_loss(out[0], out[1], cells[0], cells[1]), weights

    return _train(recipe, stacks, settings, loss_of, None, folder, progress)


def train_on_labels(
    recipe: Reading,
    backbone: Backbone,
    labelled: MaskDataset,
    settings: AmalgamateSettings | None = None,
    prompts: PromptPolicy = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Amalgamated:
    """Train on labelled pixels, with a linear classifier on top that is not kept.

    Raises:
        DatasetError: There are no labelled pictures.
        InvalidValueError: The recipe has no views.
    """
    settings = settings or AmalgamateSettings()
    if not labelled.samples:
        raise DatasetError(f"{labelled.name} has no labelled pictures.")
    texts = {s.image: category_text(s.category, prompts, recipe.template) for s in labelled.samples}
    stacks = _stacks(recipe, backbone, texts, progress)
    classes = len(labelled.classes)
    labels = {
        s.image: F.interpolate(
            torch.from_numpy(s.labels(classes))[None, None].float(),
            size=stacks[s.image].views.shape[-2:],
            mode="nearest",
        )[0, 0].long()
        for s in labelled.samples
    }
    channels = _config(stacks, settings).out_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        probe = nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, classes, 1))

    def loss_of(network: Amalgamation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(labelled.samples), (2,), generator=generator).tolist()
        paths = [labelled.samples[i].image for i in chosen]
        out, weights = _mixed(network, [stacks[p] for p in paths], False)
        truth = torch.stack([labels[p] for p in paths])
        return F.cross_entropy(probe(out), truth, ignore_index=IGNORE), weights

    return _train(recipe, stacks, settings, loss_of, probe, folder, progress)


class _Chance:
    """What is random in a training: examples by a generator of their own, dropout by torch's."""

    def __init__(self, seed: int) -> None:
        self.examples = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        return {"examples": self.examples.get_state(), "dropout": torch.get_rng_state()}

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        self.examples.set_state(state["examples"])
        torch.set_rng_state(state["dropout"])


def _train(
    recipe: Reading,
    stacks: Mapping[Path, _Stack],
    settings: AmalgamateSettings,
    loss_of: Loss,
    probe: nn.Module | None,
    folder: Path | None,
    progress: Progress,
) -> Amalgamated:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = Amalgamation(_config(stacks, settings)).train()
        parts = {"network": network} if probe is None else {"network": network, "probe": probe}
        weights = [weight for part in parts.values() for weight in part.parameters()]
        chance = _Chance(settings.seed)
        how = {name: value for name, value in asdict(settings).items() if name != "steps"}
        loop = Loop(
            folder,
            Schedule(settings.steps, _EVERY),
            {"optimiser": torch.optim.AdamW(weights, lr=settings.rate, weight_decay=settings.decay)},
            {**parts, "chance": chance},
            {**how, "recipe": recipe.hash, "pictures": len(stacks)},
        )
        walk = SparsityWalk(settings.seed)
        for value in loop.losses:
            walk.update(value)

        def gradients(_: int) -> Values:
            loss, mixed_by = loss_of(network, chance.examples)
            sparsity = walk.value if settings.released else settings.sparsity
            regularised(loss, mixed_by, sparsity, settings.diversity, settings.released).backward()
            value = float(loss.detach())
            walk.update(value)
            return {"loss": value}

        loop.run(gradients, progress=progress, desc="amalgamate")
    network.eval()
    with torch.no_grad():
        mixed_by = torch.cat([network.weights(s.views[None]) for s in stacks.values()], dim=1)
    names = tuple(v.name or f"view {i + 1}" for i, v in enumerate(recipe.views or ()) if not v.append)
    shares = tuple(tuple(row.tolist()) for row in mixed_by.mean(dim=(1, 3)))
    return Amalgamated(network, tuple(loop.losses), shares, tuple(entropy(mixed_by).tolist()), names)


def _mixed(network: Amalgamation, stacks: Sequence[_Stack], shared: bool) -> tuple[Tensor, Tensor]:
    views = torch.stack([s.views for s in stacks])
    extra = None if stacks[0].extra is None else torch.stack([s.extra for s in stacks if s.extra is not None])
    if not shared:
        return network(views, extra)
    weights = network.weights(views).mean(dim=1, keepdim=True).expand(-1, len(stacks), -1, -1)
    return network.mix(views, weights, extra), weights


def _config(stacks: Mapping[Path, _Stack], settings: AmalgamateSettings) -> AmalgamationConfig:
    some = next(iter(stacks.values()))
    return AmalgamationConfig(
        channels=some.views.shape[1],
        views=len(some.views),
        kind=settings.kind,
        assigners=settings.assigners,
        attention=0 if some.extra is None else some.extra.shape[0],
        convolve=settings.convolve,
        released=settings.released,
    )


def _stacks(
    recipe: Reading, backbone: Backbone, texts: Mapping[Path, str | None], progress: Progress
) -> dict[Path, _Stack]:
    if recipe.views is None:
        raise InvalidValueError(f"Recipe {recipe.name!r} has no views to amalgamate; list them under 'views'.")
    plain = recipe.replace(fuse={"kind": "concat", "grid": recipe.fuse.grid if recipe.fuse else None})
    reader = Views(plain.view_recipes(), backbone, base=plain)
    mixture = MixedViews.of(plain, backbone, [])
    sizes = {}
    found: dict[Path, _Stack] = {}
    paths = list(texts)
    for path, maps in zip(
        paths, progress(reader.stream(paths, [texts[p] for p in paths]), total=len(paths), desc="views"), strict=True
    ):
        views, extra = mixture.stacks([list(m.activations.values()) for m in maps])
        found[path] = _Stack(views, extra, maps[0].frame)
        sizes[tuple(views.shape)] = path
    if len(sizes) > 1:
        raise InvalidValueError(
            f"Pictures have maps of {len(sizes)} shapes ({', '.join(map(str, list(sizes)[:3]))}…). Give the recipe a "
            "frame of one size, or fuse.grid."
        )
    return found
