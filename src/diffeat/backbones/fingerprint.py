"""Whether two models are the same: everything in them that decides the numbers, as it is when asked.

Counted are the bits of every weight (wherever offloading keeps it), configurations, what is set on modules beside their
configuration (``eps``, the scale of an adapter, FreeU's factors), and what tokenizers do. Not counted: where and with
what a model was saved, compilation and other wrappers, hooks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1 << 18
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2⁶⁴ over the golden ratio, as a signed number
#: Entries that say where, with what or how thriftily a model was saved or runs, not what it computes.
_IRRELEVANT = frozenset(
    "transformers_version torch_dtype dtype architectures name_or_path training gradient_checkpointing use_slicing "
    "hf_device_map is_gradient_checkpointing vocab_file tokenizer_file merges_file forward".split()
)
#: Private settings that count: which adapters of PEFT act.
_ADAPTERS = ("_active_adapter", "_disable_adapters")
_ANY_PRECISION = ContextVar("any precision", default=False)


@contextmanager
def in_any_precision() -> Iterator[None]:
    """Fingerprints that are the same in every precision: of weights their signs count, which rounding keeps (of what it
    makes zero, too), and of a pipeline all but its text encoders, which may be gone by then."""
    token = _ANY_PRECISION.set(True)
    try:
        yield
    finally:
        _ANY_PRECISION.reset(token)


def precision_of(dtype: torch.dtype) -> str:
    """A precision as fingerprints tell it."""
    return "any" if _ANY_PRECISION.get() else str(dtype)


@torch.no_grad()
def fingerprint(*parts: Any) -> str:
    """16 hex digits of modules, schedulers, tokenizers and plain settings; ``None`` does not count.

    Of a weight, eight bytes at a time are mixed with their place and summed up modulo 2⁶⁴, on the device where it is:
    a change of one value always tells, any other with a probability of 1 - 2⁻⁶⁴.

    Raises:
        ModelError: Weights that are nowhere to be read (on the meta device).
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        for fact in () if part is None else _facts(unwrapped(part)):
            digest.update(json.dumps(fact, sort_keys=True, default=_said).encode() + b"\n")
    return digest.hexdigest()


def with_parts(base: str, parts: Sequence[str]) -> str:
    """A fingerprint with those of further parts; itself where there are none."""
    return hashlib.sha256("\n".join([base, *parts]).encode()).hexdigest() if parts else base


def of_pipeline(pipeline: DiffusionPipeline, scheduler: Any, dropped: Mapping[str, str]) -> list[Any]:
    """What tells a pipeline from others: the fingerprint of each part, and its own settings. The scheduler counts that
    is given, whichever the pipeline has by now, and of parts that it does not have any more the fingerprints given.
    """
    parts = {**pipeline.components, "scheduler": scheduler, "safety_checker": None}  # the checker never runs
    if parts.get("image_encoder") is None:
        parts["feature_extractor"] = None  # which prepares pictures for it, or else for the checker
    config = {k: v for k, v in pipeline.config.items() if k not in parts and k != "requires_safety_checker"}
    if _ANY_PRECISION.get():
        parts, dropped = {n: part for n, part in parts.items() if not n.startswith("text_encoder")}, {}
    digests = {name: fingerprint(part) for name, part in parts.items() if part is not None}
    return [type(pipeline).__name__, settings_of(pipeline), _plain(config), {**digests, **dropped}]


def changes_of_texts(parts: Mapping[str, Any]) -> int:
    """A number that grows as text encoders and tokenizers are changed in place; costs next to nothing."""
    changes = 0
    for name, part in parts.items():
        if name.startswith("text_encoder") and part is not None:
            changes += sum(1 + writes_into(p) for p in part.parameters())
        elif name.startswith("tokenizer") and part is not None:
            changes += len(part)
    return changes


def writes_into(tensor: Tensor) -> int:
    """A number that grows as a tensor is changed in place; 0 where PyTorch does not count."""
    try:
        return tensor._version
    except RuntimeError:  # made in inference mode. To ask for that would let other threads go first, at every tensor
        return 0


def _facts(part: Any) -> Iterator[Any]:
    if isinstance(part, Tensor):
        yield _sums(part)
    elif isinstance(part, (str, int, float, list, tuple, Mapping)):
        yield part
    else:
        yield type(part).__name__, _plain(getattr(part, "config", {}))
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
                told = _sums(weight, f"{name}.{key}", _ANY_PRECISION.get())
                yield name, key, tuple(weight.shape), precision_of(weight.dtype), told


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


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, dict[str, Any]]:
    """All that a tokenizer does, but for padding and truncation, which every call sets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        model = json.loads(backend.to_str())
        model = {key: value for key, value in model.items() if key not in ("padding", "truncation")}
    else:
        ranks = getattr(tokenizer, "bpe_ranks", None)
        model = [tokenizer.get_vocab(), ranks and list(ranks)]
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


def _sums(value: Tensor, name: str = "a weight", signs: bool = False) -> Any:
    flatten = None if type(value) in (Tensor, nn.Parameter) else getattr(value, "__tensor_flatten__", None)
    if flatten is not None:  # quantised
        return [_sums(getattr(value, inner), name, signs) for inner in flatten()[0]]
    if value.is_meta:
        raise ModelError(f"{name} is on the meta device, without content: load the weights before asking for features.")
    with torch._C.DisableTorchFunctionSubclass():  # the bytes themselves of packed weights (GGUF), as a plain tensor
        flat = value.detach().contiguous().flatten()
    if signs:
        small = flat.is_floating_point() and flat.element_size() == 1  # float8 has no signbit
        flat = torch.signbit(flat.float() if small else flat)
    flat = flat.view(torch.uint8) if len(flat) else flat.to(torch.uint8)
    if len(flat) % 8 or flat.storage_offset() % 8:
        flat = torch.cat([flat, flat.new_zeros(-len(flat) % 8)])
    words = flat.view(torch.int64)
    return torch.stack([_mixed(chunk) for chunk in words.split(_CHUNK)]).tolist()


def _mixed(words: Tensor) -> Tensor:
    """The sum of a bijection of each word that depends on its place, modulo 2⁶⁴."""
    mixed = (words ^ _places(words.device)[: len(words)]).mul_(_ODD)
    mixed ^= mixed >> 29
    return mixed.mul_(_ODD).sum()


@cache
def _places(device: torch.device) -> Tensor:
    return torch.arange(_CHUNK, device=device) * _ODD


def _plain(config: Any) -> Any:
    """A configuration without private entries and what does not change numbers."""
    entries = config.to_dict() if hasattr(config, "to_dict") else config
    if isinstance(entries, Mapping):
        items = ((str(key), value) for key, value in entries.items())
        return {key: _plain(value) for key, value in items if key[:1] != "_" and key not in _IRRELEVANT}
    if isinstance(entries, (list, tuple)):
        return [_plain(value) for value in entries]
    return settings_of(entries) if hasattr(entries, "__dict__") else entries
