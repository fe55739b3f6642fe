"""What a process, a thread and the user's pipeline are set to changes no feature, and is as before afterwards."""

# ruff: noqa: F811 (arguments are named like the fixtures that are imported)
from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffeat.activations import Catalogue
from diffeat.activations import catalogue as catalogue_module
from diffeat.extraction import Extractor, generate
from diffeat.tasks.correspondence import match
from diffeat.trajectories import keyed_normal
from support.techniques import backbone, files, fingerprint, picture  # noqa: F401 (fixtures)
from test_sources import CASES, Case, dino, generated, model, pictures, reading, tensors  # noqa: F401 (fixtures)


def _networks() -> list[nn.Module]:
    known = [model("sd15"), model("flux")]
    return [*(network for backbone in known for network in backbone.networks), dino()]


def _forget() -> None:
    for known in (model("sd15"), model("flux")):
        known.texts._rows.clear()
        known.texts._texts.clear()


@contextmanager
def odd(dtype: torch.dtype = torch.float64, device: str = "meta") -> Iterator[None]:
    """All at once: what users set, and forget."""
    modules = [m for network in _networks() for m in network.modules()]
    dropouts = [m for m in modules if isinstance(m, nn.Dropout)]
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(dtype)
        stack.callback(torch.set_default_device, None)
        torch.set_default_device(device)
        stack.callback(torch.use_deterministic_algorithms, False)
        torch.use_deterministic_algorithms(True)
        stack.callback(lambda: [network.eval() for network in _networks()])
        for module in modules:
            module.training = True
        for dropout in dropouts:
            stack.callback(setattr, dropout, "p", dropout.p)
            dropout.p = 0.5
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        stack.enter_context(torch.inference_mode())
        yield


def state() -> list[Any]:
    """What a user has set, the states of random numbers, and his networks."""
    modules = [m for network in _networks() for m in network.modules()]
    generators = [torch.get_rng_state().numpy().tobytes(), random.getstate(), repr(np.random.get_state())]  # noqa: NPY002
    modes = [torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu")]
    modes += [torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training, sorted(vars(m))) for m in modules]
    weights = [w.requires_grad for network in _networks() for w in network.parameters()]
    return [generators, modes, hooks, weights, sorted(vars(model("sd15").pipeline))]


def assert_plain(result: Any, expected: Any) -> None:
    assert tensors(result).keys() == tensors(expected).keys()
    for name, tensor in tensors(result).items():
        assert (tensor.dtype, tensor.requires_grad, tensor.is_inference()) == (
            tensors(expected)[name].dtype,
            False,
            False,
        )
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, tensors(expected)[name]), name


#: Every kind of source; what is left out is made of the same parts.
KINDS = [name for name in CASES if name not in ("techniques", "joined", "several", "fused", "rgb")]


@pytest.mark.parametrize("case", [CASES[name] for name in KINDS], ids=KINDS)
def test_every_source_reads_the_same(case: Case, pictures: list[Path], files: Any) -> None:
    source = case.make(files, None)
    (expected,) = source.extract(pictures[0])
    _forget()
    with odd():
        source = case.make(files, None)
        before = state()
        (result,) = source.extract(pictures[0])
        assert state() == before
    assert_plain(result, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_by_default(dtype: torch.dtype) -> None:
    source = CASES["unet"].make(None, None)
    expected = source.extract(picture(0))
    _forget()
    with odd(dtype):
        assert_plain(source.extract(picture(0))[0], expected[0])
        assert torch.get_default_dtype() == dtype


def test_noise_is_keyed_by_its_arguments_alone() -> None:
    key: dict[str, Any] = {"seed": 0, "image": "x", "stream": "diffusion", "timestep": 261}
    expected = keyed_normal((4, 8, 8), **key)
    with odd():
        noise = keyed_normal((4, 8, 8), **key)
    assert (noise.dtype, noise.device.type) == (torch.float32, "cpu")
    assert torch.equal(noise, expected)


def test_features_in_a_graph_are_the_same_and_have_one() -> None:
    source = Extractor(reading(["up_blocks.1"]), model("sd15"), grad=True)
    (expected,) = source.extract(picture(0))
    assert expected.tensor.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        (result,) = source.extract(picture(0))
    assert torch.equal(result.tensor, expected.tensor)
    result.tensor.sum().backward()
    model("sd15").denoiser.zero_grad(set_to_none=True)


def test_generated_pictures_are_the_same() -> None:
    recipe = reading(["up_blocks.1"], trajectory={"kind": "generation", "steps": 2, "save": [1]})
    ((expected, _),) = generate(recipe, model("sd15"), ["a cat"])
    _forget()
    with odd():
        before = state()
        ((image, _),) = generate(recipe, model("sd15"), ["a cat"])
        assert state() == before
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_doors_below_the_sources() -> None:
    one = model("sd15")

    def numbers() -> list[Tensor]:
        _forget()
        rows = one.condition(["a cat"], (64, 64))
        latents = one.encode_images(pixels).mean
        denoised = one.denoise(one.noise(latents, 261, noise), 261, rows)
        return [
            latents,
            denoised.detach(),
            one.decode(latents),
            *(v for v in rows.arguments().values() if isinstance(v, Tensor)),
        ]

    noise, pixels = keyed_normal((1, 4, 8, 8), seed=0, image="", stream="diffusion"), torch.linspace(-1, 1, 3 * 64 * 64)
    pixels = pixels.reshape(1, 3, 64, 64)
    expected = numbers()
    listed = list(Catalogue.of(model("flux"), (32, 32)))
    with odd():
        result = numbers()
        catalogue_module._measured.clear()
        catalogue = Catalogue.of(model("flux"), (32, 32))
    assert [r.dtype for r in result] == [e.dtype for e in expected]
    assert all(torch.equal(r, e) for r, e in zip(result, expected, strict=True))
    assert list(catalogue) == listed


def test_an_abandoned_or_failing_stream_leaves_everything_as_it_was(files: Any) -> None:
    source = CASES["techniques"].make(files, 1)
    pipeline = model("sd15").pipeline
    before = fingerprint(pipeline)
    with odd():
        within = state()
        stream = source.stream([picture(0), picture(1)])
        next(stream)
        assert state()[:3] == within[:3]
        del stream
        assert state() == within

        def fail(*_: Any) -> None:
            raise RuntimeError("broken")

        handle = pipeline.unet.mid_block.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="broken"):
            source.extract(picture(0))
        handle.remove()
        assert state() == within
    assert fingerprint(pipeline) == before


def test_matches_are_the_same() -> None:
    features = CASES["fused"].make(None, None).extract([picture(0), picture(1)])
    points = np.array([[10.0, 20.0], [30.5, 5.0]])
    expected = match(*features, points)
    for dtype in (torch.float64, torch.float16):
        with odd(dtype):
            matches = match(*features, points)
        assert torch.equal(matches.target, expected.target)
        assert matches.target.dtype == expected.target.dtype
