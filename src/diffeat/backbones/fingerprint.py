"""Whether two models are the same: everything in them that decides the numbers, as it is when asked.

Counted are the bits of every weight (wherever offloading keeps it), configurations, what is set on modules beside their
configuration (``eps``, the scale of an adapter, FreeU's factors), and what tokenizers do. Not counted: where and with
what a model was saved, compilation and other wrappers, hooks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import ModelError

_CHUNK = 1 << 24
#: Entries that say where, with what or how thriftily a model was saved or runs, not what it computes.
_IRRELEVANT = frozenset(
    "transformers_version torch_dtype dtype architectures name_or_path training gradient_checkpointing use_slicing "
    "hf_device_map is_gradient_checkpointing vocab_file tokenizer_file merges_file forward".split()
)
#: Private settings that count: which adapters of PEFT act.
_ADAPTERS = ("_active_adapter", "_disable_adapters")
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(*parts: Any) -> str:
    """16 hex digits of modules, schedulers, tokenizers and plain settings; ``None`` does not count.

    The bits of a weight count as integers: their sum and their sum weighted by position, modulo 2⁶⁴, which any single
    change and any exchange of two values alters.

    Raises:
        ModelError: Weights that are nowhere to be read (on the meta device).
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        for fact in () if part is None else _facts(unwrapped(part)):
            digest.update(json.dumps(fact, sort_keys=True, default=_said).encode() + b"\n")
    return digest.hexdigest()


def _facts(part: Any) -> Iterator[Any]:
    if isinstance(part, Tensor):
        yield _sums(part)
    elif isinstance(part, (str, int, float, list, tuple, Mapping)):
        yield part
    else:
        yield type(part).__name__, plain(getattr(part, "config", {}))
        if isinstance(part, nn.Module):
            yield from _of_modules(part)
        elif hasattr(part, "get_vocab"):
            yield _of_tokenizer(part)


def _of_modules(network: nn.Module) -> Iterator[Any]:
    elsewhere = _on_disk(network)
    for path, module in network.named_modules(remove_duplicate=False):
        if hasattr(module, "_orig_mod"):
            continue  # a compiled block; its own follows
        name = path.replace("._orig_mod", "")
        yield name, type(module).__name__, settings_of(module)
        own = {k: v for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set}
        for key, value in sorted({**module._parameters, **own}.items()):
            if value is not None:
                weight = _read(*elsewhere[id(value)]) if id(value) in elsewhere else _kept(module, key, value)
                yield name, key, tuple(weight.shape), str(weight.dtype), _sums(weight, f"{name}.{key}")


def settings_of(thing: Any) -> dict[str, Any]:
    """What is set on an object in plain values: numbers, texts, lists of them, and names of functions."""
    values = {k: v for k, v in vars(thing).items() if (k[:1] != "_" or k in _ADAPTERS) and k not in _IRRELEVANT}
    settings = {k: v for k, v in values.items() if v is not None and _is_plain(v)}
    processor = values.get("processor")
    if processor is not None and not type(processor).__module__.startswith("diffusers."):
        settings["processor"] = [type(processor).__qualname__, settings_of(processor)]
    return settings


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, FunctionType, BuiltinFunctionType))


def _said(value: Any) -> Any:
    """A value that JSON has no form for."""
    if isinstance(value, (FunctionType, BuiltinFunctionType)):
        return value.__qualname__
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _of_tokenizer(tokenizer: Any) -> Any:
    """All that a tokenizer does, but for padding and truncation, which every call sets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        model = json.loads(backend.to_str())
        model = {key: value for key, value in model.items() if key not in ("padding", "truncation")}
    else:
        model = [tokenizer.get_vocab(), getattr(tokenizer, "bpe_ranks", None) and list(tokenizer.bpe_ranks)]
    used = ("model_max_length", "padding_side", "truncation_side", "chat_template", "special_tokens_map")
    return model, {name: getattr(tokenizer, name, None) for name in used}


def _kept(module: nn.Module, key: str, value: Tensor) -> Tensor:
    """A weight, or what accelerate's offloading keeps in its place."""
    if value.is_meta:
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            weights = getattr(one, "weights_map", None)
            if weights is not None and key in weights:
                return weights[key]
    return value


def _on_disk(network: nn.Module) -> dict[int, tuple[str, str]]:
    """File and key of weights that group offloading left on disk alone, by the id of the parameter."""
    places: dict[int, tuple[str, str]] = {}
    for module in network.modules():
        registry = getattr(module, "_diffusers_hook", None)
        group = getattr(registry and registry.get_hook("group_offloading"), "group", None)
        if group is not None and group.offload_to_disk_path is not None and group._is_offloaded_to_disk:
            places |= {id(tensor): (group.safetensors_file_path, key) for tensor, key in group.tensor_to_key.items()}
    return places


def _read(file: str, key: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(key)


def _sums(value: Tensor, name: str = "a weight") -> Any:
    if hasattr(value, "__tensor_flatten__") and type(value) not in (Tensor, nn.Parameter):  # quantised
        return [_sums(getattr(value, inner), name) for inner in value.__tensor_flatten__()[0]]
    if value.is_meta:
        raise ModelError(f"{name} is on the meta device, without content: load the weights before asking for features.")
    bits = value.detach().contiguous().flatten()
    bits = bits.view(_INTEGERS.get(value.element_size(), torch.int64)) if len(bits) else bits.to(torch.int8)
    total = weighted = 0
    for start in range(0, len(bits), _CHUNK):
        chunk = bits[start : start + _CHUNK].to(torch.int64)
        place = torch.arange(start + 1, start + 1 + len(chunk), device=chunk.device)
        total += int(chunk.sum())
        weighted += int((chunk * place).sum())
    return total % (1 << 64), weighted % (1 << 64)


def plain(config: Any) -> Any:
    """A configuration without private entries and what does not change numbers."""
    entries = config.to_dict() if hasattr(config, "to_dict") else config
    if isinstance(entries, Mapping):
        items = ((str(key), value) for key, value in entries.items())
        return {key: plain(value) for key, value in items if key[:1] != "_" and key not in _IRRELEVANT}
    if isinstance(entries, (list, tuple)):
        return [plain(value) for value in entries]
    return settings_of(entries) if hasattr(entries, "__dict__") else entries
