"""Several threads on one model: each gives what it gives alone, and nobody is disturbed. Nothing here rests on time:
threads meet at events inside a module's forward."""

# ruff: noqa: F811 (arguments are named like the fixtures that are imported)
from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffeat import tap
from diffeat.activations import MapRequest, Taps, read
from diffeat.backbones import Backbone
from diffeat.backbones.recording import record_call
from diffeat.backbones.sharing import Hooks, alone, ready, shared
from diffeat.errors import TapError
from diffeat.extraction import Extractor
from diffeat.techniques import LoRA, Prompt
from stock_calls import forward_kwargs
from support.techniques import backbone, files, fingerprint, picture, recipe  # noqa: F401 (fixtures)

PATIENCE = 60.0  # seconds until a test that hangs fails
WANTED = ["up_blocks.1", MapRequest("up_blocks.1.attentions.0.transformer_blocks.0.attn1.map")]


@pytest.fixture(scope="module")
def unet(backbone: Backbone) -> nn.Module:
    return backbone.pipeline.unet


@pytest.fixture(scope="module")
def calls(unet: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of two calls of the denoiser."""
    one = forward_kwargs(unet, (8, 16))
    return one, {**one, "sample": one["sample"] * 0.5}


@pytest.fixture(autouse=True)
def _leaves_nothing(backbone: Backbone) -> Iterator[None]:
    before = fingerprint(backbone.pipeline)
    yield
    assert fingerprint(backbone.pipeline) == before


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


class Gate:
    """Stops the first call of a module in a thread of ours, until it is let go."""

    def __init__(self, module: nn.Module) -> None:
        self.arrived, self._go = threading.Event(), threading.Event()
        self._thread: int | None = None
        self._handle = module.register_forward_pre_hook(self._stop)

    def _stop(self, *_: object) -> None:
        if threading.get_ident() == self._thread:
            self._thread = None
            self.arrived.set()
            assert self._go.wait(PATIENCE)
            self._handle.remove()  # here: whoever waits for this call to end finds the model as it was

    def through(self, work: Callable[[], Any]) -> Any:
        self._thread = threading.get_ident()
        return work()

    @contextmanager
    def held(self, pool: ThreadPoolExecutor, work: Callable[[], Any]) -> Iterator[Future[Any]]:
        """While another thread stands at the gate in the midst of ``work``; it then goes on to its end."""
        future = pool.submit(self.through, work)
        try:
            assert self.arrived.wait(PATIENCE)
            yield future
        finally:
            self._go.set()
        future.result(PATIENCE)
        self._handle.remove()  # once more: adapters have put it back


@torch.no_grad()
def plain(unet: nn.Module, call: dict[str, Any]) -> Tensor:
    return unet(**call)[0]


@torch.no_grad()
def reading(unet: nn.Module, call: dict[str, Any]) -> dict[str, Tensor]:
    return read(unet, WANTED, **call)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- hooks


@pytest.mark.parametrize("gate", ["conv_in", "up_blocks.1.resnets.0"])
def test_a_plain_call_amid_a_reading(unet: nn.Module, calls: Any, pool: ThreadPoolExecutor, gate: str) -> None:
    expected, alone_ = reading(unet, calls[0]), plain(unet, calls[1])
    with Gate(unet.get_submodule(gate)).held(pool, lambda: reading(unet, calls[0])) as future:
        assert torch.equal(plain(unet, calls[1]), alone_)  # neither stopped nor seen
    assert same(future.result(), expected)


def test_a_reading_amid_a_plain_call(unet: nn.Module, calls: Any, pool: ThreadPoolExecutor) -> None:
    expected, alone_ = reading(unet, calls[0]), plain(unet, calls[1])
    with Gate(unet.mid_block).held(pool, lambda: plain(unet, calls[1])) as future:
        assert same(reading(unet, calls[0]), expected)
    assert torch.equal(future.result(), alone_)


def test_a_reading_amid_a_reading(unet: nn.Module, calls: Any, pool: ThreadPoolExecutor) -> None:
    one, other = reading(unet, calls[0]), reading(unet, calls[1])
    with Gate(unet.mid_block).held(pool, lambda: reading(unet, calls[0])) as future:
        assert same(reading(unet, calls[1]), other)
    assert same(future.result(), one)


def test_what_another_thread_calls_is_not_collected(unet: nn.Module, calls: Any, pool: ThreadPoolExecutor) -> None:
    with torch.no_grad(), Taps(unet, WANTED, stop=False) as taps:
        pool.submit(plain, unet, calls[0]).result(PATIENCE)
        with pytest.raises(TapError, match="in this thread"):
            taps.collect()
        plain(unet, calls[1])
        assert same(taps.collect(), reading(unet, calls[1]))


def test_a_generation_is_tapped_in_its_own_thread(unet: nn.Module, calls: Any, pool: ThreadPoolExecutor) -> None:
    with tap(unet, ["up_blocks.1"]) as taps:
        plain(unet, calls[0])
        pool.submit(plain, unet, calls[1]).result(PATIENCE)
    assert len(taps.steps) == 1


def test_taps_that_are_entered_here_and_run_there(unet: nn.Module, calls: Any, pool: ThreadPoolExecutor) -> None:
    with torch.no_grad(), Taps(unet, WANTED) as taps:  # as where a server draws a generator from several threads
        assert same(pool.submit(torch.no_grad()(taps.run), **calls[0]).result(PATIENCE), reading(unet, calls[0]))


def test_hooks_that_come_or_go_while_others_call_do_nothing() -> None:
    """Torch looks up what a hook takes after it has listed the hooks: one that was just removed gets less."""
    module, hooks, seen = nn.Linear(2, 2), Hooks(), []

    def come_and_go(*_: object) -> None:
        hooks.remove()

    module.register_forward_pre_hook(come_and_go)
    module.register_forward_hook(come_and_go)
    hooks.before(module, lambda args, kwargs: seen.append(args))
    with hooks.acting():
        module(torch.zeros(1, 2))
        hooks.after(module, lambda args, kwargs, output: seen.append(output))
        module(torch.zeros(1, 2))
    assert not seen


# ---- recording


def test_a_pipeline_runs_while_its_texts_are_recorded(backbone: Backbone, pool: ThreadPoolExecutor) -> None:
    arguments = backbone.family.call_arguments(backbone.pipeline, ["a cat"], (64, 64), {})
    pipeline, before = backbone.pipeline, copy.deepcopy(vars(backbone.pipeline.scheduler))

    def generate() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        pipe = copy.copy(pipeline)  # a pipeline's own scheduler serves one call at a time
        pipe.scheduler = copy.deepcopy(pipeline.scheduler)
        return pipe(
            "a dog", num_inference_steps=2, height=64, width=64, generator=generator, output_type="latent"
        ).images

    pipeline.set_progress_bar_config(disable=True)
    expected = generate()
    with Gate(pipeline.text_encoder).held(pool, lambda: record_call(pipeline, backbone.denoiser, arguments)):
        assert torch.equal(generate(), expected)
    after = vars(pipeline.scheduler)
    assert before.keys() == after.keys()
    assert str(before) == str(after)


# ---- techniques


def extract(backbone: Backbone, *techniques: Any) -> dict[str, Tensor]:
    return Extractor(recipe(*techniques), backbone).extract(picture(0))[0].activations


def test_two_extractors_amid_each_other(backbone: Backbone, pool: ThreadPoolExecutor) -> None:
    one, other = extract(backbone), extract(backbone, Prompt(text="a bus"))
    with Gate(backbone.denoiser.mid_block).held(pool, lambda: extract(backbone)) as future:
        assert same(extract(backbone, Prompt(text="a bus")), other)
    assert same(future.result(), one)


def test_one_extractor_in_two_threads(backbone: Backbone, pool: ThreadPoolExecutor) -> None:
    source = Extractor(recipe(), backbone, batch_size=1)
    expected = [f.activations for f in source.extract([picture(0), picture(1)])]
    with Gate(backbone.denoiser.mid_block).held(pool, lambda: source.extract([picture(0)])) as future:
        assert same(source.extract([picture(1)])[0].activations, expected[1])
    assert same(future.result()[0].activations, expected[0])


Works = dict[str, Callable[[], dict[str, Tensor]]]


@pytest.fixture(scope="module")
def works(backbone: Backbone, calls: Any, files: Any) -> tuple[Works, dict[str, dict[str, Tensor]]]:
    """Uses of one model, and what each gives alone."""
    lora = LoRA(path=str(files / "lora.safetensors"), scale=0.7)
    works: Works = {
        "plain call": lambda: {"": plain(backbone.denoiser, calls[0])},
        "plain features": lambda: extract(backbone),
        "adapted features": lambda: extract(backbone, lora),
    }
    expected = {name: work() for name, work in works.items()}
    assert not same(expected["plain features"], expected["adapted features"])
    return works, expected


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("plain call", ["adapted features"]),
        ("plain features", ["adapted features"]),
        ("adapted features", ["plain call", "plain features"]),
    ],
)
def test_adapters_wait_and_are_waited_for(
    backbone: Backbone, works: Any, pool: ThreadPoolExecutor, first: str, then: list[str]
) -> None:
    uses, expected = works
    with Gate(backbone.denoiser.mid_block).held(pool, uses[first]) as future:
        others = {name: pool.submit(uses[name]) for name in then}
        assert not any(other.done() for other in others.values())
    assert same(future.result(), expected[first])
    for name, other in others.items():
        assert same(other.result(PATIENCE), expected[name]), name


def test_adapters_leave_the_hooks_of_others(
    backbone: Backbone, calls: Any, works: Any, pool: ThreadPoolExecutor
) -> None:
    uses, expected = works
    with torch.no_grad(), Taps(backbone.denoiser, ["up_blocks.1"], stop=False) as taps:
        pool.submit(uses["adapted features"]).result(PATIENCE)
        assert torch.equal(backbone.denoiser(**calls[0])[0], expected["plain call"][""])
        assert same(taps.collect(), read(backbone.denoiser, ["up_blocks.1"], **calls[0]))


def test_training_mode_is_set_aside_in_one_thread_at_a_time(
    backbone: Backbone, calls: Any, pool: ThreadPoolExecutor
) -> None:
    network, seen = backbone.denoiser, []
    network.train()
    handle = network.mid_block.register_forward_hook(lambda module, *_: seen.append(module.training))
    try:
        with Gate(network.conv_in).held(pool, lambda: extract(backbone)):
            other = pool.submit(plain, network, calls[0])
        other.result(PATIENCE)
    finally:
        handle.remove()
        assert all(m.training for m in network.modules())
        network.eval()
    assert seen[-1]
    assert not any(seen[:-1])


# ---- the loan itself


def test_alone_means_alone(pool: ThreadPoolExecutor) -> None:
    model, order = nn.Linear(2, 2), []
    gate = Gate(model)
    with gate.held(pool, lambda: model(torch.zeros(1, 2))):
        changing = pool.submit(_change, model, order)
        assert not changing.done()
        order.append("call")
    changing.result(PATIENCE)
    assert order == ["call", "change"]
    assert "forward" not in vars(model)


def _change(model: nn.Module, order: list[str]) -> None:
    with alone(model), alone(model), shared(model), ready(model):
        order.append("change")


def test_who_fails_alone_gives_the_model_back(pool: ThreadPoolExecutor) -> None:
    model = nn.Linear(2, 2).eval()
    with pytest.raises(KeyboardInterrupt), alone(model):
        raise KeyboardInterrupt
    assert "forward" not in vars(model)
    pool.submit(model, torch.zeros(1, 2)).result(PATIENCE)
