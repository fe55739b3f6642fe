"""The stock network inside what people wrap around it: compilation, data parallelism, PEFT."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
        if hasattr(network, "peft_config") and hasattr(network, "get_base_model"):
            return unwrapped(network.get_base_model())
    return network


@contextmanager
def uncompiled() -> Iterator[None]:
    """Whatever was compiled runs as it was written: hooks are not part of compiled code."""
    if "torch._dynamo" in sys.modules:  # or else nothing was compiled, and its import is spared
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield
