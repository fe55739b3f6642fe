"""The stock network inside what people wrap around it: compilation, data parallelism, PEFT."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def unwrapped(network: Any) -> Any:
    """The diffusers or transformers network inside ``torch.compile``, ``DataParallel`` and ``PeftModel``.

    Adapters that PEFT injected into its layers stay, and what is not wrapped is returned as it is.
    """
    if isinstance(network, nn.Module):
        if isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            return unwrapped(inner)
        if isinstance(inner := network._modules.get("module"), nn.Module) and not hasattr(type(network), "load_config"):
            return unwrapped(inner)
        base: Any = getattr(network, "get_base_model", None)
        if base is not None and hasattr(network, "peft_config"):
            return unwrapped(base())
    return network


def computing_dtype(network: nn.Module) -> torch.dtype:
    """In which a network computes: what its ``dtype`` says if it has one, ten times as fast where nothing is hooked to
    its layers (this is asked at every call)."""
    inner = unwrapped(network)
    hooked = hasattr(type(inner), "dtype") and any("_diffusers_hook" in module.__dict__ for module in inside(inner))
    if hooked:  # layers may compute in another type than they are kept in
        return inner.dtype
    kept = getattr(inner, "_keep_in_fp32_modules", None) or ()
    for name, weight in inner.named_parameters():
        if weight.is_floating_point() and not any(part in name for part in kept):
            return weight.dtype
    return getattr(inner, "dtype", None) or next(inner.parameters()).dtype


def inside(*networks: nn.Module) -> Iterator[nn.Module]:
    """What ``modules()`` would give, several times as fast: this is asked at every call."""
    waiting = list(networks)
    while waiting:
        module = waiting.pop()
        yield module
        waiting += [child for child in module._modules.values() if child is not None]


def offloaded(network: nn.Module) -> bool:
    """Whether accelerate or diffusers brings weights to where they are needed, or casts them there."""
    return any(
        hasattr(module, "_hf_hook") or getattr(getattr(module, "_diffusers_hook", None), "hooks", ())
        for module in network.modules()
    )


@contextmanager
def uncompiled(network: nn.Module | None = None, hooked: Iterable[str] = ()) -> Iterator[None]:
    """Whatever was compiled runs as it was written: hooks are not part of compiled code.

    Args:
        network: Where only hooks at the paths ``hooked`` are to run; compiled blocks that hold none of them stay so.
    """
    nothing = "torch._dynamo" not in sys.modules  # was compiled, and its import is spared
    if nothing or (network is not None and not any(_in_compiled(network, path) for path in hooked)):
        yield
    else:
        with torch.compiler.set_stance("force_eager"):
            yield


def _in_compiled(network: nn.Module, path: str) -> bool:
    """Whether a module is compiled, or inside one that is."""
    above = [network]
    for name in path.split("."):
        above.append(getattr(above[-1], name))
    return "_orig_mod" in path or any(module._compiled_call_impl is not None for module in above)
