"""Training an amalgamation: on point correspondences, or on labelled pictures.

The views of all pictures are extracted once. There are three trainings, after those of "Suppress Content Shift" (Meng
et al., NeurIPS 2024) for its three tasks (:data:`~diffeat.training.amalgamated.PUBLISHED`); in all of them the terms of
Eq. 5 act on the weights.

* *correspondence*: assigners (and the output convolution, if any) with the contrastive loss of the published head.
  Source and target have mixing weights of their own there, so that they need not share a feature space; ``shared``
  gives both the mean of their weights.
* *segmentation*: an assigner for each level of the denoiser (``levels``), cross-entropy of a linear classifier on the
  joint map. The published dense heads (UPerHead with a Lovász term, an auxiliary FCN head) are not here, nor residual
  blocks before and after the mixing: made with zeros for all weights, they only ever learn a number per channel.
* *label-scarce*: assigners of single pixels (``pixel``), each with a classifier of pixels of its own, as members of an
  ensemble that are trained side by side. Published are epochs with early stopping; here the number of steps is given.

Classifiers are thrown away: what is kept is the mixture, of an ensemble by the mean of its members' weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeat.ambient import seeded
from diffeat.backbones import Backbone
from diffeat.datasets.labelled import IGNORE, MaskDataset
from diffeat.datasets.pairs import PairDataset
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.evaluation.texts import PromptPolicy, picture_texts, text_of
from diffeat.extraction import Reading, Views
from diffeat.extraction.joins.amalgamation import (
    Amalgamation,
    AmalgamationConfig,
    LevelAmalgamation,
    SparsityWalk,
    entropy,
    regularised,
)
from diffeat.extraction.joins.views import MixedViews, share_of
from diffeat.geometry import Frame
from diffeat.progress import Progress, silent
from diffeat.tasks.segmentation.ensemble import pixel_classifier
from diffeat.training.amalgamated import Amalgamated, AmalgamateSettings, Network
from diffeat.training.hyperfeatures.loss import keypoint_loss, nearest_cells
from diffeat.training.loop import Loop, Schedule, Values

#: Steps between checkpoints.
_EVERY = 200
#: Losses of a step, each with the mixing weights behind it, from a source of examples.
Losses = Callable[[torch.Generator], list[tuple[Tensor, list[Tensor]]]]


@dataclass(frozen=True)
class _Stack:
    """One picture: views of each level, ``(v, c, h, w)``, and appended channels."""

    levels: list[Tensor]
    extra: Tensor | None
    frame: Frame

    @property
    def device(self) -> torch.device:
        return self.levels[0].device


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
        InvalidValueError: The recipe has no views, or weights of pixels are asked for.
    """
    settings = settings or AmalgamateSettings()
    usable = [p for p in pairs if p.source_points]
    if not usable:
        raise DatasetError(f"No pair of {pairs.name} has points to learn from.")
    if settings.pixel:
        raise InvalidValueError("Weights of pixels are trained on labelled pictures, not on pairs.")
    texts = picture_texts(pairs, prompts, recipe.template)
    stacks = _stacks(recipe, backbone, texts, settings.levels, progress)
    network = _network(recipe, stacks, settings)

    def losses_of(generator: torch.Generator) -> list[tuple[Tensor, list[Tensor]]]:
        pair = usable[int(torch.randint(len(usable), (1,), generator=generator))]
        one, two = stacks[pair.source], stacks[pair.target]
        out, weights = _mixed(network, [one, two], settings.shared)
        grid = (out.shape[-2], out.shape[-1])
        cells = [
            nearest_cells(s.frame.points_to_grid(torch.tensor(points, dtype=torch.float64), grid), grid).to(out.device)
            for s, points in ((one, pair.source_points), (two, pair.target_points))
        ]
        return [(keypoint_loss(out[0], out[1], cells[0], cells[1]), weights)]

    return _train(recipe, network, stacks, settings, losses_of, None, folder, progress)


def train_on_labels(
    recipe: Reading,
    backbone: Backbone,
    labelled: MaskDataset,
    settings: AmalgamateSettings | None = None,
    prompts: PromptPolicy = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Amalgamated:
    """Train on labelled pictures, with classifiers on top that are not kept. Labels are brought to the maps' grid by
    nearest neighbour.

    Raises:
        DatasetError: There are no labelled pictures.
        InvalidValueError: The recipe has no views.
    """
    settings = settings or AmalgamateSettings()
    if not labelled.samples:
        raise DatasetError(f"{labelled.name} has no labelled pictures.")
    texts = {s.image: text_of(s.image, s.category, prompts, recipe.template) for s in labelled.samples}
    stacks = _stacks(recipe, backbone, texts, settings.levels, progress)
    network = _network(recipe, stacks, settings)
    with torch.no_grad():
        grid = _mixed(network, [next(iter(stacks.values()))], False)[0].shape[-2:]
    classes = len(labelled.classes)
    labels = {
        s.image: labels_on_grid(torch.from_numpy(s.labels(classes)), stacks[s.image].frame, (grid[0], grid[1]))
        for s in labelled.samples
    }
    learn = _pixel_losses if settings.pixel else _picture_losses
    losses_of, classifiers = learn(network, stacks, labels, classes, settings)
    return _train(recipe, network, stacks, settings, losses_of, classifiers, folder, progress)


def labels_on_grid(labels: Tensor, frame: Frame, grid: tuple[int, int]) -> Tensor:
    """Labels (H, W) of a picture on a (rows, columns) grid over the model's image; padding is ignored."""
    if frame.padded:
        return frame.map_from_original(labels, grid, mode="nearest", fill=IGNORE).long()
    return F.interpolate(labels[None, None].float(), size=grid)[0, 0].long()


def _picture_losses(
    network: Network,
    stacks: Mapping[Path, _Stack],
    labels: Mapping[Path, Tensor],
    classes: int,
    settings: AmalgamateSettings,
) -> tuple[Losses, nn.Module]:
    """Cross-entropy of a linear classifier on the joint maps of some pictures."""
    paths = list(stacks)
    with torch.no_grad(), seeded(settings.seed):
        channels = _mixed(network, [stacks[paths[0]]], False)[0].shape[1]
        probe = nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, classes, 1)).to(stacks[paths[0]].device)

    def losses_of(generator: torch.Generator) -> list[tuple[Tensor, list[Tensor]]]:
        chosen = [paths[i] for i in torch.randint(len(paths), (settings.batch,), generator=generator).tolist()]
        out, weights = _mixed(network, [stacks[p] for p in chosen], False)
        truth = torch.stack([labels[p] for p in chosen]).to(out.device)
        return [(F.cross_entropy(probe(out), truth, ignore_index=IGNORE), weights)]

    return losses_of, probe


def _pixel_losses(
    network: Network,
    stacks: Mapping[Path, _Stack],
    labels: Mapping[Path, Tensor],
    classes: int,
    settings: AmalgamateSettings,
) -> tuple[Losses, nn.Module]:
    """Cross-entropy of every member's classifier on pixels of its own mixture."""
    views = torch.cat([s.levels[0].flatten(2).permute(2, 0, 1) for s in stacks.values()])  # pixels, views, channels
    extras = [s.extra.flatten(1).T for s in stacks.values() if s.extra is not None]
    extra = torch.cat(extras) if extras else None
    truth = torch.cat([labels[path].flatten() for path in stacks]).to(views.device)
    known = (truth != IGNORE).nonzero()[:, 0]
    if not len(known):
        raise DatasetError("The labelled pictures hold no labelled pixel.")
    generator = torch.Generator().manual_seed(settings.seed)
    width = views.shape[2] + (0 if extra is None else extra.shape[1])
    made = (pixel_classifier(width, classes, generator) for _ in range(settings.assigners))
    members = nn.ModuleList(made).to(views.device)

    def losses_of(generator: torch.Generator) -> list[tuple[Tensor, list[Tensor]]]:
        some = known[torch.randint(len(known), (settings.batch,), generator=generator).to(known.device)]
        beside = None if extra is None else extra[some][..., None, None]
        out, weights = network(views[some][..., None, None], beside)
        mixtures = out.flatten(1).chunk(len(members), dim=1)
        return [
            (F.cross_entropy(member(mixture), truth[some]), [weights[k : k + 1]])
            for k, (member, mixture) in enumerate(zip(members, mixtures, strict=True))
        ]

    return losses_of, members


class _Chance:
    """What is random in a training: examples by a generator of their own, dropout by torch's, walks by their losses."""

    def __init__(self, seed: int, walks: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self.examples = torch.Generator().manual_seed(seed)
        self.walks = [SparsityWalk(seed + k) for k in range(walks)]
        self.told: list[list[float]] = []

    def update(self, losses: list[float]) -> None:
        """Move the coefficient of each loss."""
        self.told.append(losses)
        for walk, loss in zip(self.walks, losses, strict=True):
            walk.update(loss)

    def state_dict(self) -> dict[str, Tensor]:
        told = torch.tensor(self.told, dtype=torch.float64)
        state = {"examples": self.examples.get_state(), "dropout": torch.get_rng_state(), "losses": told}
        return state if self._cuda is None else {**state, "dropout there": torch.cuda.get_rng_state(self._cuda)}

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        self.examples.set_state(state["examples"])
        torch.set_rng_state(state["dropout"])
        if self._cuda is not None and "dropout there" in state:
            torch.cuda.set_rng_state(state["dropout there"], self._cuda)
        for losses in state["losses"].tolist():
            self.update(losses)


def _train(
    recipe: Reading,
    network: Network,
    stacks: Mapping[Path, _Stack],
    settings: AmalgamateSettings,
    losses_of: Losses,
    classifiers: nn.Module | None,
    folder: Path | None,
    progress: Progress,
) -> Amalgamated:
    device = next(iter(stacks.values())).device
    with seeded(settings.seed, device):
        parts: dict[str, nn.Module] = {"network": network.train()}
        if classifiers is not None:
            parts["classifiers"] = classifiers
        weights = [weight for part in parts.values() for weight in part.parameters()]
        chance = _Chance(settings.seed, settings.assigners if settings.pixel else 1, device)
        how = {name: value for name, value in asdict(settings).items() if name != "steps" or settings.final is not None}
        loop = Loop(
            folder,
            Schedule(settings.steps, _EVERY, _falling(settings)),
            {"optimiser": torch.optim.AdamW(weights, lr=settings.rate, weight_decay=settings.decay)},
            {**parts, "chance": chance},
            {**how, "recipe": recipe.hash, "pictures": len(stacks)},
        )

        def gradients(_: int) -> Values:
            losses = losses_of(chance.examples)
            total = torch.stack(
                [
                    _regularised(loss, mixed_by, walk.value if settings.released else settings.sparsity, settings)
                    for (loss, mixed_by), walk in zip(losses, chance.walks, strict=True)
                ]
            )
            total.sum().backward()
            values = [float(loss.detach()) for loss, _ in losses]
            chance.update(values)
            return {"loss": sum(values) / len(values)}

        loop.run(gradients, progress=progress, desc="amalgamate")
    network.eval()
    if isinstance(network, Amalgamation) and settings.pixel:
        network.config = replace(network.config, ensemble=True)
    with torch.no_grad():
        by_picture = [_mixed(network, [s], False)[1] for s in stacks.values()]
    parted = [w[None] for of_level in zip(*by_picture, strict=True) for w in torch.cat(of_level, dim=1)]  # by assigner
    names = tuple(v.name or f"view {i + 1}" for i, v in enumerate(recipe.views or ()) if not v.append)
    shares = tuple(tuple(share_of(w).tolist()) for w in parted)
    return Amalgamated(network, tuple(loop.losses), shares, tuple(float(entropy(w)) for w in parted), names)


def _falling(settings: AmalgamateSettings) -> Callable[[int], float] | None:
    final = settings.final
    if final is None:
        return None
    return lambda step: (final + (settings.rate - final) * (1 - step / settings.steps) ** 0.9) / settings.rate


def _regularised(loss: Tensor, weights: list[Tensor], sparsity: float, settings: AmalgamateSettings) -> Tensor:
    """The loss with the terms of every level; the released code has none where there are levels."""
    if settings.levels and settings.released:
        return loss
    terms = [regularised(loss, w, sparsity, settings.diversity, settings.released) for w in weights]
    return torch.stack(terms).sum() - (len(terms) - 1) * loss


def _mixed(network: Network, stacks: Sequence[_Stack], shared: bool) -> tuple[Tensor, list[Tensor]]:
    """Joint maps of some pictures, and the weights of each level."""
    levels = [torch.stack(level) for level in zip(*(s.levels for s in stacks), strict=True)]
    extra = None if stacks[0].extra is None else torch.stack([s.extra for s in stacks if s.extra is not None])
    if isinstance(network, LevelAmalgamation):
        return network(levels, extra)
    if not shared:
        out, weights = network(levels[0], extra)
        return out, [weights]
    weights = network.weights(levels[0]).mean(dim=1, keepdim=True).expand(-1, len(stacks), -1, -1)
    return network.mix(levels[0], weights, extra), [weights]


def _network(recipe: Reading, stacks: Mapping[Path, _Stack], settings: AmalgamateSettings) -> Network:
    """Made with the settings' seed; of pixels with the published first weights. In evaluation mode."""
    some = next(iter(stacks.values()))
    configs = [
        AmalgamationConfig(
            channels=views.shape[1],
            views=len(views),
            kind=settings.kind,
            assigners=settings.assigners,
            attention=0 if some.extra is None or settings.levels else some.extra.shape[0],
            convolve=settings.convolve,
            pixel=settings.pixel,
            released=settings.released,
        )
        for views in some.levels
    ]
    with seeded(settings.seed):
        if settings.levels:
            return LevelAmalgamation(configs, recipe.fuse.grid if recipe.fuse else None).to(some.device).eval()
        network = Amalgamation(configs[0])
        for module in network.modules() if settings.pixel else ():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.02)
                nn.init.zeros_(module.bias)
        return network.to(some.device).eval()


def _stacks(
    recipe: Reading, backbone: Backbone, texts: Mapping[Path, str | None], by_level: bool, progress: Progress
) -> dict[Path, _Stack]:
    if recipe.views is None:
        raise InvalidValueError(f"Recipe {recipe.name!r} has no views to amalgamate; list them under 'views'.")
    plain = recipe.replace(fuse={**(recipe.fuse.model_dump() if recipe.fuse else {}), "kind": "mean", "weights": None})
    reader = Views(plain.view_recipes(), backbone, base=plain)
    mixture = MixedViews.of(plain, backbone, [])
    sizes = {}
    stacks: dict[Path, _Stack] = {}
    paths = list(texts)
    for path, maps in zip(
        paths, progress(reader.stream(paths, [texts[p] for p in paths]), total=len(paths), desc="views"), strict=True
    ):
        levels, extra = mixture.stacks([list(m.activations.values()) for m in maps], by_level)
        stacks[path] = _Stack(levels, extra, maps[0].frame)
        sizes[tuple(tuple(level.shape) for level in levels)] = path
    if len(sizes) > 1:
        raise InvalidValueError(
            f"Pictures have maps of {len(sizes)} shapes ({', '.join(map(str, list(sizes)[:3]))}…). Give the recipe a "
            "frame of one size, or fuse.grid."
        )
    return stacks
