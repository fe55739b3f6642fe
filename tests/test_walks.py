"""Inversion and generation: against diffusers' own schedulers, for every kind of prediction, and their errors."""

from __future__ import annotations

from functools import cache

import diffusers
import pytest
import torch
from torch import Tensor

from diffeat.activations import Taps
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.trajectories import Guidance, ode_steps, round_trip, unconditional_rows, walk
from diffeat.trajectories.ode import check_prediction
from tiny.pipelines import build

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ACTIVATION = {"sd15": "up_blocks.1", "sd21": "up_blocks.1", "sd3": "transformer_blocks.1", "ddpm": "up_blocks.1"}


@cache
def backbone(name: str) -> Backbone:
    return Backbone.from_pipeline(build(name), name=name)


def noise(model: Backbone, rows: int = 2) -> Tensor:
    size = model.default_size
    shape = model.encode_images(torch.zeros(1, 3, size[1], size[0])).mean.shape[1:]
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(3))


def conditions(model: Backbone, rows: int = 2):
    return model.condition(["a cat", "a dog"][:rows] if model.family.conditional else [""] * rows, model.default_size)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", ["sd15", "sd21"])
@torch.no_grad()
def test_generation_is_the_stock_ddim_sampler(name: str) -> None:
    """Noise and velocity prediction, guided; DDIMScheduler has the settings of the reference."""
    model, scale = backbone(name), 3.0
    scheduler = diffusers.DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=True, prediction_type=model.prediction_type
    )
    scheduler.set_timesteps(7)
    x, rows = noise(model), conditions(model)
    other = unconditional_rows(model, "blurry", rows)
    found = walk(model, x, ode_steps("generation", 7, model), rows, guidance=Guidance(scale, other), keep=True)
    for t, reached in zip(scheduler.timesteps, found.latents[1:], strict=True):
        conditional, plain = model.denoise(x, float(t), rows), model.denoise(x, float(t), other)
        x = scheduler.step(plain + scale * (conditional - plain), t, x).prev_sample
        assert error(reached, x) <= 1e-5


@torch.no_grad()
def test_generation_of_a_flow_model_is_the_stock_euler_sampler() -> None:
    model = backbone("sd3")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    x, rows = noise(model), conditions(model)
    found = walk(model, x, ode_steps("generation", 4, model), rows, keep=True)
    for t, reached in zip(scheduler.timesteps, found.latents[1:], strict=True):
        x = scheduler.step(model.denoise(x, float(t), rows), t, x).prev_sample
        assert error(reached, x) <= 1e-5


@torch.no_grad()
def test_inversion_is_the_stock_inverse_scheduler_shifted_to_the_references_table() -> None:
    """DDIMInverseScheduler's update rule, with the reference's timesteps in the place of its own."""
    model = backbone("sd21")
    alphas = torch.cat([torch.ones(1), diffusers.DDIMScheduler(**BETAS).alphas_cumprod])
    x, rows = noise(model), conditions(model)
    found = walk(model, x, ode_steps("inversion", 5, model), rows, keep=True)
    for at, to, reached in zip((-1, 0, 200, 400, 600), (0, 200, 400, 600, 800), found.latents[1:], strict=True):
        v, a, b = model.denoise(x, float(at), rows), alphas[at + 1], alphas[to + 1]
        clean, eps = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
        x = b.sqrt() * clean + (1 - b).sqrt() * eps
        assert error(reached, x) <= 1e-5


@pytest.mark.parametrize("name", ["sd15", "sd21", "ddpm"])
@torch.no_grad()
def test_what_the_network_predicts_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same estimate of the noise, told as noise or as velocity, gives the same walk."""
    model = backbone(name)
    rows, x = conditions(model), noise(model)
    schedule = model._schedule
    field = lambda z: torch.tanh(z.roll(1, -1) + 0.3)  # noqa: E731

    def predict(kind: str):
        def denoise(z: Tensor, t, _) -> Tensor:
            signal, sigma = schedule.mix(schedule.check(t, len(z)), z)
            eps = field(z)
            return eps if kind == "epsilon" else (eps - sigma * z) / signal

        return denoise

    ends = []
    for kind in ("epsilon", "v_prediction"):
        monkeypatch.setattr(schedule, "prediction_type", kind)
        monkeypatch.setattr(model, "denoise", predict(kind))
        ends.append(walk(model, x, ode_steps("inversion", 6, model), rows).end)
    assert error(ends[0], ends[1]) <= 1e-4


@pytest.mark.parametrize("name", list(ACTIVATION))
def test_the_way_back_comes_closer_with_more_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A smooth field is followed back to the start as steps get smaller."""
    model = backbone(name)
    monkeypatch.setattr(model, "denoise", lambda z, t, _: 0.5 * torch.tanh(z.roll(1, -1)))
    errors = [float(round_trip(model, noise(model), conditions(model), n).error().mean()) for n in (5, 20, 100)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.25 * errors[0]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ["sd15", "sd3"])
@torch.no_grad()
def test_rows_do_not_see_each_other(name: str, guided: bool) -> None:
    model = backbone(name)
    x, rows, steps = noise(model), conditions(model), ode_steps("inversion", 4, model)
    taps = Taps(model.denoiser, [ACTIVATION[name]])

    def run(index: list[int]) -> tuple[Tensor, dict[int, Tensor]]:
        found: dict[int, Tensor] = {}
        part = rows.take(index)
        guidance = Guidance(2.0, unconditional_rows(model, "", part)) if guided else None
        keep = lambda s, maps: found.__setitem__(s, maps[ACTIVATION[name]])  # noqa: E731
        way = walk(model, x[index], steps, part, guidance=guidance, taps=taps, save=[3, 1], on_features=keep)
        return way.end, found

    together, alone = run([0, 1]), run([1])
    assert error(together[0][1:], alone[0]) <= 1e-5
    for save in (3, 1):
        assert error(together[1][save][1:], alone[1][save]) <= 1e-5


def test_a_finished_walk_leaves_no_hooks() -> None:
    model = backbone("sd15")
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.denoiser.modules())
    with torch.no_grad():
        for finish in (True, False):
            walk(
                model,
                noise(model),
                ode_steps("inversion", 2, model),
                conditions(model),
                taps=Taps(model.denoiser, ["up_blocks.1"]),
                save=[1],
                finish=finish,
            )
    assert before == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.denoiser.modules())


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda m: ode_steps("inversion", 0, m), ["1 to 1000", "got 0"]),
        (lambda m: ode_steps("inversion", 1001, m), ["1001"]),
        (lambda m: ode_steps("sideways", 5, m), ["inversion", "sideways"]),
        (
            lambda m: walk(m, noise(m), ode_steps("inversion", 5, m), conditions(m), save=[5, 1]),
            ["[5]", "outside", "4 (next to the clean image)"],
        ),
        (
            lambda m: walk(
                m, noise(m), ode_steps("inversion", 5, m), conditions(m), guidance=Guidance(2.0, conditions(m, 1))
            ),
            ["1 unconditional rows for 2"],
        ),
        (lambda m: check_prediction(m, "v_prediction"), ["'v_prediction'", "'epsilon'"]),
    ],
    ids=["no steps", "too many", "direction", "save", "guidance rows", "prediction"],
)
def test_wrong_walks_are_refused(run, words: list[str]) -> None:
    with pytest.raises(InvalidValueError) as caught:
        run(backbone("sd15"))
    for word in words:
        assert word in str(caught.value)


def test_guidance_needs_an_unconditional_embedding() -> None:
    with pytest.raises(InvalidValueError, match="no conditions at all"):
        unconditional_rows(backbone("ddpm"), "", conditions(backbone("ddpm")))
    with pytest.raises(InvalidValueError, match="distilled"):
        unconditional_rows(backbone("flux"), "", conditions(backbone("flux")))


def test_a_model_that_predicts_samples_cannot_start_from_the_clean_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone("sd15")
    monkeypatch.setattr(model._schedule, "prediction_type", "sample")
    with pytest.raises(InvalidValueError, match="cannot be inverted"), torch.no_grad():
        walk(model, noise(model), ode_steps("inversion", 3, model), conditions(model))
    with torch.no_grad():
        assert walk(model, noise(model), ode_steps("generation", 3, model), conditions(model)).end.isfinite().all()
