"""What a stock pipeline passes to its denoiser, recorded on the first call and stopped there.

The conditioning of every family is taken this way: the pipeline's own code tokenises, encodes, pads, packs and adds
its micro-conditions, and nothing of it is written a second time here.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffeat.backbones.sharing import Hooks
from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import DiffeatError, ModelError
from diffeat.memory import out_of_memory

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class _FirstCall(BaseException):
    """Leaves the pipeline with the arguments of the denoiser; no error handler of a pipeline may swallow it."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments


@torch.no_grad()
def record_call(
    pipeline: DiffusionPipeline, denoiser: nn.Module, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], float] | None:
    """Run ``pipeline(**arguments)`` up to its first denoiser call.

    A copy runs that shares its networks, so the pipeline is not touched; no denoiser block runs.

    Returns:
        The denoiser's arguments bound to their names and the scheduler's timestep of the call, or None if the
        pipeline never called its denoiser.
    """

    hooks = Hooks()

    def stop(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _FirstCall(dict(inspect.signature(unwrapped(denoiser).forward).bind(*args, **kwargs).arguments))

    own: Any = copy.copy(pipeline)  # every pipeline can be called, though their common class does not say so
    own.scheduler = copy.deepcopy(pipeline.scheduler)
    own.set_progress_bar_config(disable=True)
    hooks.before(denoiser, stop)
    try:
        with hooks.acting():
            own(**arguments)
    except _FirstCall as call:
        return call.arguments, float(own.scheduler.timesteps[0])
    except DiffeatError:
        raise
    except Exception as error:  # whatever the stock pipeline finds wrong with what it was asked for
        if out_of_memory(error):
            raise ModelError(f"The text encoders of {type(pipeline).__name__} run out of memory: {error}") from None
        raise ModelError(
            f"{type(pipeline).__name__} did not accept {_said(arguments)} ({type(error).__name__}: {error})."
        ) from error
    finally:
        hooks.remove()
    return None


def _said(arguments: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in arguments.items() if isinstance(v, (str, int, float, list)) and k != "output_type"}
    return ", ".join(f"{k}={v!r}" for k, v in shown.items())


def remembering(
    pipeline: DiffusionPipeline, memory: dict[str, Any], make: Callable[[str, Callable[[], Any]], Any]
) -> Any:
    """A copy of a pipeline whose ``encode_prompt`` answers from ``memory``: a text is encoded once for all image sizes.

    Args:
        memory: From the call's arguments to its result; grows.
        make: Gives what is not in memory, of the call's arguments as a text and of what encodes them; may raise.
    """
    encode = getattr(pipeline, "encode_prompt", None)
    if encode is None:
        return pipeline

    def remembered(*args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        if any(isinstance(v, Tensor) for v in values):
            return encode(*args, **kwargs)
        key = repr((args, sorted(kwargs.items())))
        result = memory.get(key)
        if result is None:
            result = memory[key] = make(key, lambda: encode(*args, **kwargs))
        return result

    own: Any = copy.copy(pipeline)
    own.encode_prompt = remembered
    return own
