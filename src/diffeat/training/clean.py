r"""Training a denoiser whose features need no noise (CleanDIFT; Stracke et al., CVPR 2025), of any family.

A copy of the denoiser reads the clean latent and is told one timestep; an adapter for each activation, conditioned on
t, maps what it finds there to what the frozen original finds in the latent noised to t:

.. math:: \min\; \mathbb{E}_{x, t, \epsilon} \sum_k 1 - \cos\bigl(A_k(f_k(x_0), t),\; f^\ast_k(x_t, t)\bigr),

the cosine at every position, t drawn from each of some equal parts of the schedule. The copy starts as the original and
the adapters as the identity. What is kept is the copy; the adapters are written beside it
(:class:`~diffeat.refinement.CleanDiftAdapters` reads them). Both forward passes end at the last activation.

As released: three noise levels per picture, eight pictures per step, Adam at 1e-5, about 400 steps. Ours: the told
timestep stays as it is (released: trained along from 261; at that rate Adam moves it by less than 0.01, and denoisers
are told whole ones), no warm-up, and the mean over activations in place of their sum, which Adam does not tell apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.utils.checkpoint import checkpoint as recomputed

from diffeat.activations import Taps
from diffeat.ambient import neutral, seeded
from diffeat.backbones import Backbone
from diffeat.backbones.wrappers import offloaded, unwrapped
from diffeat.errors import DatasetError, InvalidValueError, TooLargeError
from diffeat.extraction import Extractor, Reading
from diffeat.features import Images, OnError, Picture, Prompts, raise_error
from diffeat.features.picture import several
from diffeat.features.source import texts_for
from diffeat.files import new_folder
from diffeat.geometry import file_digest
from diffeat.memory import moved, out_of_memory
from diffeat.progress import Progress, silent
from diffeat.refinement.cleandift import FIXED, CleanDiftAdapters, new_adapters
from diffeat.training.checkpoint import Tensors, write
from diffeat.training.clean_examples import Example, Examples
from diffeat.training.hyperfeatures.recipes import RECIPE_FILE, WEIGHTS, results_in
from diffeat.training.loop import Loop, Schedule, Values

#: In the run folder.
DENOISER, ADAPTERS = f"{WEIGHTS}/denoiser.safetensors", f"{WEIGHTS}/adapters.safetensors"
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class CleanSettings:
    """How clean features are trained. The defaults are the released ones.

    Attributes:
        steps: Of the optimiser.
        batch: Pictures of a step.
        levels: Noise levels of each picture in a step, one from each of so many equal parts of the schedule.
        rate: Of Adam, for the denoiser and the adapters.
        every: Steps between checkpoints.
        seed: Of the adapters, the order of the pictures, timesteps and noise.
    """

    steps: int = 400
    batch: int = 8
    levels: int = 3
    rate: float = 1e-5
    every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Cleaned:
    """A trained denoiser.

    Attributes:
        recipe: File of the recipe; every command takes it.
        losses: One minus the mean cosine of each step.
        activations: That were matched.
        pictures: In the training.
    """

    recipe: Path
    losses: tuple[float, ...]
    activations: tuple[str, ...]
    pictures: int

    def __str__(self) -> str:
        some = max(1, len(self.losses) // 10)
        first, last = (1 - sum(part) / some for part in (self.losses[:some], self.losses[-some:]))
        return (
            f"{len(self.losses)} steps on {self.pictures} pictures; cosine to the noisy features, over all timesteps: "
            f"{first:.3f} in the first {some} steps, {last:.3f} in the last"
        )


def clean_recipe(recipe: Reading) -> Reading:
    """The recipe that reads the clean latent, in one call, what another reads of noisy ones.

    Raises:
        InvalidValueError: It walks, reads at several timesteps, has views or techniques, or joins by a trained network.

    Example:
        >>> recipe = clean_recipe(Reading.load("tiny-unet"))
        >>> recipe.trajectory.kind, recipe.trajectory.timesteps, recipe.trajectory.draws
        ('clean', (20.0,), 1)
    """
    name, path = f"Recipe {recipe.name!r}", recipe.trajectory
    for field in ("views", "techniques"):
        if getattr(recipe, field) is not None:
            raise InvalidValueError(f"{name} has {field}; clean features are one plain call: --set {field}=null.")
    if path.stepped:
        raise InvalidValueError(
            f"{name} walks ({path.kind}); clean features are read in one call: choose a recipe of kind 'noise'."
        )
    if len(path.timesteps) > 1:
        raise InvalidValueError(
            f"{name} reads at {len(path.timesteps)} timesteps; clean features are told one: give --timestep "
            f"{path.timesteps[0]:g}, or the one that matches best."
        )
    if recipe.fuse is not None and recipe.fuse.weights is not None:
        raise InvalidValueError(
            f"{name} joins by a network that was trained on noisy features: --set fuse=null, and train it on the clean "
            "ones afterwards."
        )
    return recipe.replace(
        name=f"{recipe.name}-clean", trajectory={"kind": "clean", "timesteps": path.timesteps, "latent": path.latent}
    )


@neutral()
def train_clean(
    extractor: Extractor,
    images: Images,
    folder: str | Path,
    settings: CleanSettings | None = None,
    *,
    prompts: Prompts = None,
    on_error: OnError = raise_error,
    progress: Progress = silent,
    force: bool = False,
) -> Cleaned:
    """Train a copy of a denoiser to give clean features, and write the recipe that uses it; a training that was stopped
    goes on. The extractor's model stays as it is.

    Args:
        extractor: Of a recipe that :func:`clean_recipe` takes; its activations are matched. ``batch_size`` limits the
            rows of one denoiser call.
        folder: Gets ``recipe.yaml``, ``weights/``, the state and the log.
        prompts: One text for all, or one per picture; goes through the recipe's template.
        on_error: What to do with a picture that cannot be read (another takes its place); raises by default.
        force: Whether the results of an earlier training may be replaced.

    Raises:
        DatasetError: There is no picture, or none that can be read.
        InvalidValueError: The recipe or the model cannot be trained, or the folder holds another training.
        StoreError: The folder cannot be written.
        TooLargeError: A step does not fit into memory; says what to do.
    """
    settings, out = settings or CleanSettings(), Path(folder)
    recipe = clean_recipe(extractor.recipe)
    new_folder(out, results_in(out), force=force)
    pictures = _pictures(recipe, images, prompts)
    names = _names(extractor)
    _check_trainable(extractor.backbone)
    with extractor.backbone.ready():
        training = _Training(extractor, recipe, names, pictures, settings, on_error)
        training.run(out, progress)
    write(out / DENOISER, training.student.state_dict())
    write(out / ADAPTERS, training.adapters)
    told = {"source": DENOISER, "sha256": file_digest(out / DENOISER)}
    recipe.replace(denoiser=told, description=f"Clean features of {recipe.model}, one call without noise").save(
        out / RECIPE_FILE, force=force
    )
    return Cleaned(out / RECIPE_FILE, tuple(training.losses), tuple(names), len(pictures))


class _Training:
    """The steps: of ``student``, the copy that is trained in float32, and ``adapters``, weights by name."""

    def __init__(
        self,
        extractor: Extractor,
        recipe: Reading,
        names: Sequence[str],
        pictures: Sequence[Picture],
        settings: CleanSettings,
        on_error: OnError = raise_error,
    ) -> None:
        self._backbone, self._recipe, self._names, self._settings = extractor.backbone, recipe, names, settings
        self._rows = extractor.batch_size
        self._examples = Examples(self._backbone, recipe, pictures, settings.levels, settings.seed, on_error)
        self.losses: list[float] = []
        original = unwrapped(self._backbone.denoiser)
        self.student: nn.Module = deepcopy(original).float().eval().requires_grad_(True)
        if getattr(self.student, "_supports_gradient_checkpointing", False):
            self.student.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        self._teacher_taps, self._taps = Taps(original, names), Taps(self.student, names)
        with seeded(settings.seed):
            made = new_adapters(self._channels(), recipe.trajectory.timesteps[0])
        self.adapters = {name: value.to(self._backbone.device) for name, value in made.items()}
        self._trained = [w for name, w in self.adapters.items() if name not in FIXED]
        for weight in self._trained:
            weight.requires_grad_(True)
        self._adapt = CleanDiftAdapters(self.adapters)

    def run(self, folder: Path | None, progress: Progress = silent) -> None:
        settings = self._settings
        how = {name: value for name, value in asdict(settings).items() if name not in ("steps", "every")}
        loop = Loop(
            folder,
            Schedule(settings.steps, settings.every),
            {"optimiser": torch.optim.Adam([*self.student.parameters(), *self._trained], lr=settings.rate)},
            {"denoiser": self.student, "adapters": Tensors(self.adapters)},
            {**how, "recipe": self._recipe.hash, "pictures": len(self._examples.pictures)},
        )
        loop.run(self._gradients, progress=progress, desc="clean")
        self.losses = loop.losses

    def _gradients(self, number: int) -> Values:
        settings = self._settings
        places = range(number * settings.batch, (number + 1) * settings.batch)
        with seeded((settings.seed << 32) + number):
            examples = [self._examples[place] for place in places]
        loss = sum(self._backward(part) for part in self._parts(examples))
        return {"loss": loss / len(examples)}

    def _parts(self, examples: Sequence[Example]) -> Iterator[list[Example]]:
        """Examples of one size, as many as a call takes."""
        most = len(examples) if self._rows is None else max(1, self._rows // self._settings.levels)
        for size in dict.fromkeys(example.size for example in examples):
            alike = [example for example in examples if example.size == size]
            yield from (alike[i : i + most] for i in range(0, len(alike), most))

    def _backward(self, part: Sequence[Example]) -> float:
        """Add the gradients of some examples; gives the sum of their losses."""
        try:
            loss = self._loss(part)
            (loss * len(part) / self._settings.batch).backward()
            return float(loss.detach()) * len(part)
        except Exception as error:
            if not out_of_memory(error):
                raise
            w, h = part[0].size
            raise TooLargeError(
                f"{len(part)} pictures of {w}×{h} pixels do not fit into the memory of {self._backbone.device}. Limit "
                f"the rows of a call (--batch-size {max(1, len(part) // 2) * self._settings.levels}), or --size."
            ) from error

    def _loss(self, part: Sequence[Example]) -> Tensor:
        """The mean over activations, pictures, timesteps and positions of one minus the cosine."""
        backbone, levels = self._backbone, self._settings.levels
        clean = torch.stack([example.latent for example in part])
        times = torch.cat([example.times for example in part])
        rows = [i for i in range(len(part)) for _ in range(levels)]
        texts = [example.text for example in part]
        conditioning = backbone.condition(texts, part[0].size, **self._recipe.conditioning)
        noise = moved(torch.cat([example.noise for example in part]), backbone.device)
        with torch.no_grad():
            noisy = backbone.noise(clean[rows], times, noise)
            targets = _run(self._teacher_taps, backbone.denoiser_inputs(noisy, times, conditioning.take(rows)))
        inputs = backbone.denoiser_inputs(clean, self._recipe.trajectory.timesteps[0], conditioning)
        with torch.autocast(backbone.device.type, backbone.dtype, enabled=backbone.dtype != torch.float32):
            features = _run(self._taps, inputs)

        def away(name: str, feature: Tensor, target: Tensor) -> Tensor:
            projected = self._adapt(name, feature.repeat_interleave(levels, dim=0), times)
            return 1 - cosine_similarity(projected, target.float(), dim=1).mean()

        each = [recomputed(away, n, features[n], targets[n], use_reentrant=False) for n in self._names]
        return torch.stack(each).mean()

    @torch.no_grad()
    def _channels(self) -> dict[str, int]:
        """Of each activation, by one call."""
        backbone = self._backbone
        with seeded(self._settings.seed):
            example = self._examples[0]
        conditioning = backbone.condition([example.text], example.size, **self._recipe.conditioning)
        told = self._recipe.trajectory.timesteps[0]
        values = _run(self._teacher_taps, backbone.denoiser_inputs(example.latent[None], told, conditioning))
        for name, value in values.items():
            if value.ndim != 4:
                raise InvalidValueError(f"{name!r} is no map of the picture: name other activations (-a).")
        return {name: value.shape[1] for name, value in values.items()}


def _run(taps: Taps, inputs: dict) -> dict[str, Tensor]:
    with taps.another() as own:
        return own.run(**inputs)


def _pictures(recipe: Reading, images: Images, prompts: Prompts) -> list[Picture]:
    """Each with the text that the model reads, or ``None`` for the recipe's own."""
    pictures = [Picture.of(image) for image in several(images)]
    if not pictures:
        raise DatasetError("There is no picture to learn from.")
    return [
        picture.told(recipe.text_for(text) if text and picture.text is None else picture.text)
        for picture, text in zip(pictures, texts_for(prompts, len(pictures)), strict=True)
    ]


def _names(extractor: Extractor) -> list[str]:
    """Ids of what is matched: the maps, or the raw streams of those that are refined."""
    names: dict[str, None] = {}
    for reducer in extractor.plan.readers[0].reducers:
        wants = reducer.core.wants
        if reducer.predicts or not all(isinstance(want, str) for want in wants):
            raise InvalidValueError(
                f"{reducer.name} has no channels that could be matched; clean features are those of blocks and layers: "
                "name them (-a)."
            )
        names[str(wants[0])] = None  # of a refined map the raw stream, without its scale and shift
    return list(names)


def _check_trainable(backbone: Backbone) -> None:
    """Refuse weights that are quantised, offloaded or in half precision."""
    if backbone.dtype not in _DTYPES:
        kind = str(backbone.dtype).removeprefix("torch.")
        raise InvalidValueError(f"Clean features are trained in float32 or bfloat16, not in {kind}: --dtype bfloat16.")
    network = unwrapped(backbone.denoiser)
    if offloaded(network):
        raise InvalidValueError(f"The weights of {backbone.name} are offloaded; load it without, to train it.")
    for weight in network.parameters():
        if weight.element_size() < 2 or not weight.is_floating_point() or hasattr(weight, "__tensor_flatten__"):
            raise InvalidValueError(f"The weights of {backbone.name} are quantised, and such are not trained.")
