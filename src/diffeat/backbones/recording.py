"""What a stock pipeline passes to its denoiser, recorded on the first call and stopped there.

The conditioning of every family is taken this way: the pipeline's own code tokenises, encodes, pads, packs and adds
its micro-conditions, and nothing of it is written a second time here.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import DiffeatError, ModelError


class _FirstCall(BaseException):
    """Leaves the pipeline with the arguments of the denoiser; no error handler of a pipeline may swallow it."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments


@torch.no_grad()
def record_call(
    pipeline: Any, denoiser: nn.Module, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], float] | None:
    """Run ``pipeline(**arguments)`` up to its first denoiser call.

    The pipeline keeps its scheduler's state and its progress bar settings; no denoiser block runs.

    Raises:
        ModelError: If the pipeline does not accept the arguments.

    Returns:
        The denoiser's arguments bound to their names and the scheduler's timestep of the call, or None if the
        pipeline never called its denoiser.
    """

    def stop(module: nn.Module, args: tuple, kwargs: dict) -> None:
        bound = inspect.signature(unwrapped(module).forward).bind(*args, **kwargs)
        raise _FirstCall(dict(bound.arguments))

    scheduler = pipeline.scheduler
    bar = dict(getattr(pipeline, "_progress_bar_config", {}))
    handle = denoiser.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        pipeline.scheduler = copy.deepcopy(scheduler)
        pipeline.set_progress_bar_config(disable=True)
        pipeline(**arguments)
    except _FirstCall as call:
        return call.arguments, float(pipeline.scheduler.timesteps[0])
    except DiffeatError:
        raise
    except Exception as error:  # whatever the stock pipeline finds wrong with what it was asked for
        raise ModelError(
            f"{type(pipeline).__name__} did not accept {_said(arguments)} ({type(error).__name__}: {error})."
        ) from error
    finally:
        handle.remove()
        pipeline.scheduler = scheduler
        pipeline.set_progress_bar_config(**bar)
    return None


def _said(arguments: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in arguments.items() if isinstance(v, (str, int, float, list)) and k != "output_type"}
    return ", ".join(f"{k}={v!r}" for k, v in shown.items())


@contextlib.contextmanager
def remembered_texts(pipeline: Any, memory: dict[str, Any], missing: Callable[[], None]) -> Iterator[None]:
    """Let ``pipeline.encode_prompt`` answer from ``memory``, so that one text is encoded once for all image sizes.

    Args:
        pipeline: A pipeline; one without ``encode_prompt`` is left as it is.
        memory: From the call's arguments to its result; grows.
        missing: Called before a text is encoded that is not in memory; may raise.
    """
    encode = getattr(pipeline, "encode_prompt", None)
    if encode is None:
        yield
        return

    def remembered(*args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        if any(isinstance(v, Tensor) for v in values):
            return encode(*args, **kwargs)
        key = repr((args, sorted(kwargs.items())))
        if key not in memory:
            missing()
            memory[key] = encode(*args, **kwargs)
        return memory[key]

    pipeline.encode_prompt = remembered
    try:
        yield
    finally:
        del pipeline.encode_prompt
