r"""The deterministic path between an image and noise, in both directions.

Discrete diffusion with N steps visits the timesteps :math:`T_k = k \lfloor 1000 / N \rfloor`, k = 0…N−1, and −1 for the
clean latent (:math:`\bar\alpha_{-1} = 1`). A step asks the denoiser at t for the clean latent and the noise that it
sees, and puts both together again in the proportion of the next timestep t' (DDIM without added noise; Song et al.
2021, eq. 12):

.. math:: x_{t'} = \sqrt{\bar\alpha_{t'}}\, \hat x_0(x_t, t) + \sqrt{1 - \bar\alpha_{t'}}\, \hat\epsilon(x_t, t)

*Inversion* walks −1 → T₀ → … → T_{N−1}: its first call gives the denoiser the clean latent and tells it t = −1.
*Generation* walks T_{N−1} → … → T₀ → −1. For rectified flow the same formula is Euler's step on
:math:`dx/ds = v` and the timesteps are 0, 1000/N, …, 1000. Which of noise, velocity or flow the network predicts only
changes how the two estimates are had (:mod:`diffeat.backbones.schedule`).

A denoiser call is named by its *save index*, the count of Diffusion Hyperfeatures: 0 is next to pure noise, N−1 next to
the clean image, in both directions. The same index means a timestep one step noisier in generation, as the reference
has it.

Guidance (Ho & Salimans 2022): :math:`p = p_u + g (p_c - p_u)`, both halves in one call. Features are those of the
conditional half.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.backbones import Backbone, Conditioning
from diffeat.errors import InvalidValueError

if TYPE_CHECKING:
    from diffeat.activations import Taps

Direction = Literal["inversion", "generation"]

#: Takes the save index and the activations of a call; nothing else keeps them.
OnFeatures = Callable[[int, dict[str, Tensor]], None]


@dataclass(frozen=True)
class OdeStep:
    """One denoiser call: its save index, the timestep it is told, and the timestep the latent then moves to."""

    save: int
    at: float
    to: float


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance.

    Attributes:
        scale: 1 is no guidance.
        unconditional: Conditions of the other half of the batch, one row per latent.
    """

    scale: float
    unconditional: Conditioning


@dataclass(frozen=True)
class Walk:
    """Where a walk came by.

    Attributes:
        latents: States ``(b, c, h, w)``: the first, and after every step if they were kept, else the last alone.
        clean: Estimates of the clean latent, likewise; the first is the input.
    """

    latents: list[Tensor] = field(default_factory=list, repr=False)
    clean: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def end(self) -> Tensor:
        """The last state."""
        return self.latents[-1]


def ode_steps(direction: Direction, count: int, backbone: Backbone) -> list[OdeStep]:
    """The calls of a walk, in order.

    Raises:
        InvalidValueError: If there are no steps, or more than the training schedule has.
    """
    most = backbone.train_steps
    if direction not in ("inversion", "generation"):
        raise InvalidValueError(f"A walk is an 'inversion' or a 'generation', got {direction!r}.")
    if not 1 <= count <= most:
        raise InvalidValueError(f"A trajectory has 1 to {most} steps, got {count}.")
    flow = backbone.prediction_type == "flow"
    if flow:
        inner = [1000.0 * (k + 1) / count for k in range(count)]
    else:
        inner = [float(k * (most // count)) for k in range(count)]
    places = [0.0 if flow else -1.0, *inner]
    if direction == "inversion":
        return [OdeStep(count - 1 - k, places[k], places[k + 1]) for k in range(count)]
    return [OdeStep(count - 1 - k, places[k + 1], places[k]) for k in reversed(range(count))]


def walk(
    backbone: Backbone,
    start: Float[Tensor, "b c h w"],
    steps: Sequence[OdeStep],
    conditioning: Conditioning,
    *,
    guidance: Guidance | None = None,
    taps: Taps | None = None,
    save: Collection[int] = (),
    on_features: OnFeatures | None = None,
    finish: bool = True,
    keep: bool = False,
) -> Walk:
    """Walk latents along ``steps``.

    Args:
        start: Clean latents (inversion) or noise (generation), normalised.
        conditioning: One row per latent.
        guidance: None follows the conditional prediction alone.
        taps: What to read; not yet attached.
        save: Save indices of the calls at which to read.
        on_features: Gets what was read, rows as in ``start``.
        finish: Walk to the end; otherwise stop inside the last call that is read.
        keep: Keep every state and every estimate of the clean latent.

    Raises:
        InvalidValueError: A save index outside the walk, or guidance for other rows.
    """
    check_save([step.save for step in steps], save)
    last = max((i for i, step in enumerate(steps) if step.save in save), default=-1)
    x = start.float()
    done = Walk([x], [x])
    conditions = conditioning if guidance is None else _both(conditioning, guidance)
    for i, step in enumerate(steps if finish else steps[: last + 1]):
        both = x if guidance is None else torch.cat([x, x])
        if taps is not None and step.save in save:
            with taps:
                if i == last and not finish:
                    found = taps.run(**backbone.denoiser_inputs(both, step.at, conditions))
                    _hand_over(on_features, step.save, found, len(x))
                    break
                prediction = backbone.denoise(both, step.at, conditions)
                _hand_over(on_features, step.save, taps.collect(), len(x))
        else:
            prediction = backbone.denoise(both, step.at, conditions)
        prediction = prediction.float()
        if guidance is not None:
            conditional, unconditional = prediction.chunk(2)
            prediction = unconditional + guidance.scale * (conditional - unconditional)
        clean = backbone.estimate_clean(x, step.at, prediction)
        x = backbone.noise(clean, step.to, backbone.estimate_noise(x, step.at, prediction))
        if not keep:
            done.latents.clear()
            done.clean.clear()
        done.latents.append(x)
        done.clean.append(clean)
    return done


def check_save(indices: Collection[int], save: Collection[int]) -> None:
    """Raise if a save index is not one of the walk's."""
    outside = sorted(set(save) - set(indices))
    if outside:
        raise InvalidValueError(
            f"Save steps {outside} are outside the trajectory: {len(indices)} steps have indices 0 (next to noise) to "
            f"{len(indices) - 1} (next to the clean image)."
        )


def check_prediction(backbone: Backbone, expected: str | None) -> None:
    """Raise if a trajectory was made for models that predict something else.

    Raises:
        InvalidValueError: Names both predictions.
    """
    if expected is not None and expected != backbone.prediction_type:
        raise InvalidValueError(
            f"The trajectory is stepped for a model that predicts {expected!r}, but {backbone.name} predicts "
            f"{backbone.prediction_type!r}. Leave 'prediction' out of the trajectory to step as the model needs, or "
            "use the model that the trajectory was made for."
        )


def unconditional_rows(
    backbone: Backbone, negative: str, conditioning: Conditioning, **options: object
) -> Conditioning:
    """The other half of a guided batch.

    Raises:
        InvalidValueError: If the model has no unconditional embedding.
    """
    family = backbone.family
    if not family.conditional:
        raise InvalidValueError(
            f"Guidance needs an unconditional embedding beside the conditional one; {backbone.name} has no conditions "
            "at all. Leave guidance out."
        )
    if backbone.denoiser.config.get("guidance_embeds"):  # type: ignore[union-attr, operator]
        raise InvalidValueError(
            f"{backbone.name} is distilled from a guided model: it is told the guidance scale and has no unconditional "
            "embedding. Give the scale as an option of the conditioning (guidance_scale) and leave guidance out."
        )
    return backbone.condition([negative] * len(conditioning), size=conditioning.size, **options)


def _both(conditioning: Conditioning, guidance: Guidance) -> Conditioning:
    other = guidance.unconditional
    if len(other) != len(conditioning):
        raise InvalidValueError(
            f"Guidance has {len(other)} unconditional rows for {len(conditioning)} conditional ones; give one for each."
        )
    rows = (*conditioning.rows, *other.rows)
    return Conditioning(rows, (*conditioning.prompts, *other.prompts), conditioning.size, conditioning.shared)


def _hand_over(on_features: OnFeatures | None, save: int, found: dict[str, Tensor], rows: int) -> None:
    if on_features is not None:
        on_features(save, {name: value[:rows] for name, value in found.items()})
