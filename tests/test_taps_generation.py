"""Reading while a pipeline generates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diffeat.activations import tap
from diffeat.errors import InvalidValueError, ModelError, TapError, UnknownNameError
from stock_calls import denoiser_of
from tiny.pipelines import build

STEPS = 3


def calls_of(pipe: Any, path: str) -> list[Tensor]:
    """What a module returned in every call of the denoiser, by a hook of its own."""
    found: list[Tensor] = []
    denoiser_of(pipe).get_submodule(path).register_forward_hook(lambda m, a, out: found.append(out.clone()))
    return found


def generate(pipe: Any, **options: Any) -> Any:
    seed = torch.Generator().manual_seed(0)
    return pipe(num_inference_steps=STEPS, output_type="latent", generator=seed, **options).images


def test_keyed_by_timestep_conditional_half() -> None:
    pipe = build("sd15")
    plain = generate(pipe, prompt="a cat", guidance_scale=5.0, height=64, width=128)
    calls = calls_of(pipe, "up_blocks.1")
    with tap(pipe, ["dift:1", "up_blocks.1"]) as taps:
        tapped = generate(pipe, prompt="a cat", guidance_scale=5.0, height=64, width=128)
    assert torch.equal(plain, tapped)
    assert [(i, t) for i, t, _ in taps.steps] == [(i, float(t)) for i, t in enumerate(pipe.scheduler.timesteps)]
    assert set(taps) == {float(t) for t in pipe.scheduler.timesteps}
    for (_, t, found), whole in zip(taps.steps, calls, strict=True):
        assert whole.shape[0] == 2
        assert torch.equal(found["dift:1"], whole[1:])
        assert taps[t].keys() == {"dift:1", "up_blocks.1"}
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for m in pipe.unet.modules() if m is not pipe.unet.up_blocks[1]
    )


def test_chosen_steps_and_both_halves() -> None:
    pipe = build("sd15")
    calls = calls_of(pipe, "up_blocks.1")
    with tap(pipe, "up_blocks.1", steps=[1], halves="both", to="cpu") as taps:
        generate(pipe, prompt=["a cat", "a dog"], guidance_scale=5.0, height=64, width=64)
    assert [i for i, _, _ in taps.steps] == [1]
    (t,) = taps
    assert torch.equal(taps[t]["up_blocks.1"], calls[1])
    assert len(calls[1]) == 4
    with pytest.raises(UnknownNameError, match=str(t)):
        taps[12345.0]


def test_without_guidance_and_from_the_denoiser() -> None:
    pipe = build("sd15")
    with tap(pipe, "up_blocks.1") as unguided:
        generate(pipe, prompt=["a cat", "a dog"], guidance_scale=1.0, height=64, width=64)
    assert {len(v["up_blocks.1"]) for v in unguided.values()} == {2}
    with tap(pipe.unet, "up_blocks.1") as bare:
        generate(pipe, prompt="a cat", guidance_scale=5.0, height=64, width=64)
    assert {len(v["up_blocks.1"]) for v in bare.values()} == {2}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen_image", {"prompt": "a cat", "negative_prompt": "a dog", "true_cfg_scale": 3.0}),
        ("lumina2", {"prompt": "a cat", "guidance_scale": 3.0}),
    ],
)
def test_two_calls_per_step(name: str, options: dict) -> None:
    pipe = build(name)
    block = "transformer_blocks.0" if name == "qwen_image" else "layers.0"
    times: list[float] = []
    denoiser_of(pipe).register_forward_pre_hook(
        lambda m, a, k: times.append(float(k["timestep"].flatten()[0])), with_kwargs=True
    )
    with tap(pipe, block) as taps:
        generate(pipe, height=64, width=64, **options)
    with tap(pipe, block, halves="both") as both:
        generate(pipe, height=64, width=64, **options)
    assert len(times) == 4 * STEPS
    assert len(taps) == len(both) == STEPS
    assert all(0 < t <= 1000 for t in taps)
    assert list(taps) == sorted(taps, reverse=True)
    for t in taps:
        assert len(taps[t][block]) == 1
        assert len(both[t][block]) == 2
        assert torch.equal(both[t][block][:1], taps[t][block])
        assert not torch.equal(both[t][block][1:], taps[t][block])


def test_conditional_first_in_dit() -> None:
    pipe = build("dit")
    calls = calls_of(pipe, "transformer_blocks.0")
    with tap(pipe, "transformer_blocks.0") as taps:
        generate(pipe, class_labels=[1], guidance_scale=4.0)
    for t, whole in zip(taps, calls, strict=True):
        rows = taps[t]["transformer_blocks.0"].flatten(2).transpose(1, 2)
        assert torch.equal(rows, whole[:1])


def test_a_repeated_timestep_is_a_step_of_its_own() -> None:
    """PNDM visits its second timestep twice, on different latents."""
    from diffusers import PNDMScheduler

    pipe = build("sd15")
    pipe.scheduler = PNDMScheduler(skip_prk_steps=True)
    with tap(pipe, "mid_block") as taps:
        generate(pipe, prompt="a cat", height=64, width=64)
    assert len(taps.steps) == len(pipe.scheduler.timesteps) == STEPS + 1
    assert len(taps) == STEPS


def test_interrupted_generation_leaves_no_hooks() -> None:
    pipe = build("sd15")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), tap(pipe, "mid_block") as taps:
        generate(pipe, prompt="a cat", height=64, width=64, callback_on_step_end=stop)
    assert len(taps) == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipe.unet.modules())


def test_wrong_halves() -> None:
    with pytest.raises(InvalidValueError, match="halves"), tap(build("sd15"), "mid_block", halves="first"):  # type: ignore[arg-type]
        pass


def test_steps_that_never_came_are_named() -> None:
    pipe = build("sd15")
    options = {"prompt": "a cat", "height": 64, "width": 64}
    said = r"steps 10, 200 never came: the generation had"
    with pytest.raises(TapError, match=said), tap(pipe, "mid_block", steps=[1, 10, 200]) as taps:
        generate(pipe, **options)
    assert [i for i, _, _ in taps.steps] == [1]
    with pytest.raises(ModelError, match="of another"), tap(pipe, "mid_block", steps=[10]):
        raise ModelError("of another")
