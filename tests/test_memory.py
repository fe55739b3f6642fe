"""Running out of memory: calls are halved wherever they are made, nothing is lost or doubled, one line at the end."""

# ruff: noqa: F811 (arguments are named like the fixtures that are imported)
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from diffeat.backbones import Backbone
from diffeat.errors import ModelError, TooLargeError
from diffeat.extraction import Extractor
from diffeat.extraction.reduce import Mean
from diffeat.features import Source
from diffeat.memory import Parts, out_of_memory
from diffeat.techniques import ControlNet
from support.techniques import backbone, files, picture, recipe  # noqa: F401 (fixtures)
from test_sources import CASES, assert_same, dino, model


@contextmanager
def small(module: nn.Module, rows: int, error: type[Exception] = torch.OutOfMemoryError) -> Iterator[list[int]]:
    """A module that has memory for so many rows; gives the rows of the calls that succeeded."""
    fitted: list[int] = []

    def check(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        count = len(next(a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor) and a.ndim > 1))
        if count > rows:
            raise error("Tried to allocate 20.00 GiB")
        fitted.append(count)

    handle = module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield fitted
    finally:
        handle.remove()


PLACES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "autoencoder": ("unet", lambda: model("sd15").pipeline.vae.encoder),
    "denoiser": ("unet", lambda: model("sd15").denoiser),
    "inside the denoiser": ("unet", lambda: model("sd15").denoiser.mid_block),
    "inversion": ("inversion", lambda: model("sd15").denoiser.mid_block),
    "vision": ("vision", dino),
    "joined": ("weighted", dino),
}
PICTURES = [picture(i) for i in range(5)]


@pytest.mark.parametrize(("place", "rows"), [*((place, 1) for place in PLACES), ("autoencoder", 2)])
def test_halves_until_it_fits(place: str, rows: int) -> None:
    case, module = PLACES[place]
    expected = CASES[case].make(None, 8).extract(PICTURES)
    with small(module(), rows) as fitted:
        results = CASES[case].make(None, 8).extract(PICTURES)
    assert max(fitted) <= rows
    for result, one in zip(results, expected, strict=True):
        assert result.digest == one.digest
        assert_same(result, one)


def test_passes_of_controlnets_are_halved(backbone: Backbone, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffeat.techniques.controls import Control

    def source() -> Source[Any]:
        return Extractor(
            recipe(ControlNet(model=str(files / "control"), condition="soft-edges")), backbone, batch_size=4
        )

    expected = source().extract(PICTURES[:2])
    residuals = Control.residuals

    def little(self: Any, inputs: dict[str, Any], told: torch.Tensor, *rest: Any) -> Any:
        if len(told) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return residuals(self, inputs, told, *rest)

    monkeypatch.setattr(Control, "residuals", little)
    for result, one in zip(source().extract(PICTURES[:2]), expected, strict=True):
        assert_same(result, one)


def test_means_count_every_draw_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may run out after some rows of a call were added to their means."""
    from diffeat.extraction.engine import _Means

    expected = CASES["unet"].make(None, 8).extract(PICTURES[0])
    add, calls = _Means.add, []

    def sometimes(self: Any, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        add(self, *arguments)

    monkeypatch.setattr(_Means, "add", sometimes)
    assert_same(CASES["unet"].make(None, 8).extract(PICTURES[0])[0], expected[0])


@pytest.mark.parametrize("place", ["autoencoder", "denoiser", "vision", "reduction"])
def test_what_does_not_fit_alone_is_a_failure_of_the_picture(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, module = PLACES.get(place, PLACES["denoiser"])
    source, failed = CASES[case].make(None, 8), []
    expected = source.extract(PICTURES[:3])

    def unable(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patched, small(module(), 3 if place == "reduction" else 0):
        if place == "reduction":
            patched.setattr(Mean, "map", unable)
        stream = source.stream(PICTURES[:3], on_error=lambda _, error: failed.append(error))
        assert list(stream) == []
    assert [type(error) for error in failed] == [TooLargeError] * 3
    assert all("memory" in str(error) and "\n" not in str(error) for error in failed)
    for result, one in zip(source.extract(PICTURES[:3]), expected, strict=True):
        assert_same(result, one)


def test_one_large_picture_costs_no_other() -> None:
    """In a group of its own, and amid others."""
    source, failed = Extractor(recipe(frame={"mode": "keep", "longer": 64}), model("sd15"), batch_size=8), []
    pictures = [picture(0), picture(1).resize((64, 32)), picture(2)]
    expected = source.extract(pictures)

    def full(_: nn.Module, args: tuple[torch.Tensor]) -> None:
        if args[0].shape[-2:] == (32, 64):
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            )

    handle = model("sd15").pipeline.vae.encoder.register_forward_pre_hook(full)
    results = list(source.stream(pictures, on_error=lambda _, error: failed.append(error)))
    handle.remove()
    assert [type(error) for error in failed] == [TooLargeError]
    for result, one in zip(results, [expected[0], expected[2]], strict=True):
        assert_same(result, one)


def test_texts_that_do_not_fit_are_one_line() -> None:
    model("sd15").texts._rows.clear()
    model("sd15").texts._texts.clear()
    with small(model("sd15").pipeline.text_encoder, 0), pytest.raises(ModelError, match="text encoders .* memory"):
        CASES["unet"].make(None, None).extract(PICTURES[0])


@pytest.mark.parametrize("rows", [1, 3, 7, 20])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_parts_cover_all_jobs_once_and_in_order(rows: int, most: int) -> None:
    def work(part: Any) -> list[int]:
        if len(part) > most:
            raise RuntimeError("CUDA error: out of memory")
        return list(part)

    parts = Parts(rows, "too large")
    assert [job for part in parts.run(range(11), work) for job in part] == list(range(11))
    assert parts.rows <= max(most, min(rows, most))
    with pytest.raises(TooLargeError, match="too large"):
        parts.run(range(2), lambda part: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ValueError, match="another"):
        parts.run(range(2), lambda part: int("another"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shape mismatch"), False),
        (OSError("out of memory cards"), False),
    ],
)
def test_what_is_out_of_memory(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_free_memory_counts_what_torch_caches_and_sizes_tell_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from diffeat.extraction.batching import RowBudget

    cuda = {
        "reset_peak_memory_stats": 0,
        "memory_allocated": 1000,
        "max_memory_allocated": 1200,
        "memory_reserved": 5000,
        "mem_get_info": (1000, 9000),
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    device: Any = SimpleNamespace(device=torch.device("cuda"), latent_stride=8)
    budget, calls = RowBudget(device, None), []
    budget.run(range(20), (64, 64), lambda part: calls.append(len(part)))
    assert calls == [1, 17, 2]  # 0.7 × (1000 free + 4000 cached) / 200 for a row
    assert budget.rows((128, 64)) == 8
    assert RowBudget(device, 3).rows((64, 64)) == 3
