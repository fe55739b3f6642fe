"""Models from names, hub ids and directories, with one clear error where they cannot be had."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from diffeat import zoo
from diffeat.backbones.card import Card, cards, refuse_unsupported
from diffeat.backbones.families import family_of
from diffeat.backbones.family import Family
from diffeat.errors import InvalidValueError, ModelError, UnknownNameError, did_you_mean

T = TypeVar("T")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_model(name: str) -> list[str]:
    """Hub ids or local paths to try, in order.

    Args:
        name: A model name of diffeat, a hub id, or a path; the last two are returned as they are.

    Raises:
        UnknownNameError: If it is none of these.
    """
    name = str(name)
    if (Path(name) / "model_index.json").is_file():
        return [name]  # a directory of that name goes before a name of ours
    if name in zoo.names():
        return [str(zoo.path(name))]
    if name in cards():
        return list(cards()[name].ids)
    if "/" in name or Path(name).exists() or name.startswith("."):
        return [name]
    raise UnknownNameError(
        f"{name!r} is no model name, hub id (owner/name) or existing directory. "
        + did_you_mean(name, [*cards(), *zoo.names()])
    )


def load_pipeline(
    id_or_path: str,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> Any:
    """Load a diffusers pipeline, quietly.

    Raises:
        ModelError: If none of the places that the name stands for has a usable pipeline.
        UnknownNameError: If the name is no model and no path.
    """
    precision = _precision(dtype)

    def load(place: str) -> Any:
        directory = _directory(place, revision or _revision(id_or_path, place), variant)
        return _load(directory, place, precision, variant)

    return _first(id_or_path, load)


def load_meta_denoiser(id_or_path: str, revision: str | None = None) -> tuple[nn.Module, Family]:
    """The denoiser of a model on the meta device, from its configuration alone; no weights are read.

    Raises:
        ModelError: If no configuration can be had or its denoiser is unknown.
        UnknownNameError: If the name is no model and no path.
    """
    import diffusers

    def load(place: str) -> tuple[nn.Module, Family]:
        pinned = revision or _revision(id_or_path, place)
        index = _config(diffusers.DiffusionPipeline, place, pinned)
        part = next((p for p in ("unet", "transformer") if index.get(p) and index[p][1]), None)
        if part is None:
            raise ModelError(f"The pipeline {place!r} has no unet and no transformer.")
        refuse_unsupported(index.get("_class_name", ""), index[part][1])
        model_class = getattr(diffusers, index[part][1], None)
        if model_class is None:
            raise ModelError(f"diffusers {diffusers.__version__} has no class {index[part][1]!r}.")
        config = _config(model_class, place, pinned, subfolder=part)
        with torch.device("meta"):
            denoiser = model_class.from_config(config)
        return denoiser.eval(), family_of(denoiser)

    return _first(id_or_path, load)


def card_of(name: str) -> Card | None:
    """The card of a model name; ``None`` for hub ids, directories and embedded models."""
    card = cards().get(str(name))
    return card if card is not None and resolve_model(name) == list(card.ids) else None


def _revision(name: str, place: str) -> str | None:
    """The revision that a model's card pins at one of its places."""
    card = card_of(name)
    return card.revision if card is not None and place == card.ids[0] else None


class _Unreachable(ModelError):
    """A hub id that could not be fetched; the message is the bare reason."""


def _first(name: str, load: Callable[[str], T]) -> T:
    """What ``load`` gives for the first of a model's places that works; quiet.

    Raises:
        ModelError: One message for all places that were tried.
    """
    reasons: dict[str, ModelError] = {}
    for place in resolve_model(name):
        try:
            with _quiet():
                return load(place)
        except ModelError as error:
            reasons[place] = error
    local = [error for error in reasons.values() if not isinstance(error, _Unreachable)]
    if local:
        raise local[0]
    tried = "; ".join(f"{place}: {reason}" for place, reason in reasons.items())
    card = card_of(name)
    gate = f"accept its licence ({card.licence}) on the hub and log in" if card and card.gated else "log in if need be"
    raise ModelError(
        f"The model {name!r} is not on this machine and could not be fetched from the hub ({tried}). Check the name "
        f"and the connection ({gate}), or fetch it elsewhere with "
        f"`hf download {next(iter(reasons))}` and give the path of that directory."
    )


def _no_connection() -> bool:
    """Whether the hub's name cannot even be resolved: then its client's minute of retries is spared."""
    import socket
    from urllib.parse import urlparse

    from huggingface_hub import constants

    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, None)
    except OSError:
        return True
    return False


def _precision(dtype: torch.dtype | str | None) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    name = (dtype or "float32").removeprefix("torch.")
    if name not in _DTYPES:
        raise InvalidValueError(f"The precision {dtype!r} is unknown. {did_you_mean(name, _DTYPES)}".strip())
    return _DTYPES[name]


def _config(loader: Any, place: str, revision: str | None, subfolder: str | None = None) -> dict[str, Any]:
    local = _is_local(place)
    if local:
        _check_directory(Path(place), place)
    options = {"subfolder": subfolder} if subfolder else {}
    try:
        cached = local or _no_connection()
        config = loader.load_config(place, revision=revision, local_files_only=cached, **options)
    except Exception as error:  # the hub client has no common base for its errors
        if local:
            raise ModelError(f"The model {place} has no readable configuration ({_reason(error)}).") from error
        raise _Unreachable("no connection to the hub" if _no_connection() else _reason(error)) from error
    return config[0] if isinstance(config, tuple) else config


def _directory(place: str, revision: str | None, variant: str | None) -> Path:
    if _is_local(place):
        _check_directory(Path(place), place)
        return Path(place)
    from diffusers import DiffusionPipeline

    index = _config(DiffusionPipeline, place, revision)
    refuse_unsupported(index.get("_class_name", ""))
    try:
        cached = _no_connection()
        return Path(DiffusionPipeline.download(place, revision=revision, variant=variant, local_files_only=cached))
    except Exception as error:  # the hub client has no common base for its errors
        raise _Unreachable("no connection to the hub" if _no_connection() else _reason(error)) from error


def _is_local(place: str) -> bool:
    path = Path(place)
    return path.exists() or path.is_absolute() or place.startswith(".") or place.count("/") != 1


def _check_directory(path: Path, place: str) -> None:
    if not path.is_dir():
        what = "a file, not a directory" if path.exists() else "not there"
        raise ModelError(f"The model directory {place} is {what}.")
    if not (path / "model_index.json").is_file():
        raise ModelError(
            f"{place} is not a diffusers pipeline: it has no model_index.json. Give the directory that "
            "save_pretrained() of a pipeline wrote (with its unet or transformer, vae, scheduler, …)."
        )


def _reason(error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first[:300]


def _load(directory: Path, place: str, dtype: torch.dtype, variant: str | None) -> Any:
    from diffusers import DiffusionPipeline

    absent = _check_components(directory, place, variant)
    try:
        return DiffusionPipeline.from_pretrained(
            directory,
            **dict.fromkeys(absent),
            dtype={"default": dtype, "vae": torch.float32} if _upcasts(directory) else dtype,
            variant=variant,
            local_files_only=True,
        )
    except Exception as error:  # anything a damaged or foreign directory provokes inside the loaders
        raise ModelError(
            f"The model {place} could not be loaded ({type(error).__name__}: {_reason(error)})."
        ) from error


def _check_components(directory: Path, place: str, variant: str | None) -> list[str]:
    """Check that what the directory lists is there; the components that it was saved without are returned."""
    try:
        index = json.loads((directory / "model_index.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{directory / 'model_index.json'} is not valid JSON ({error}).") from None
    parts = [k for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[0] is not None]
    refuse_unsupported(index.get("_class_name", ""), *(index[part][1] for part in parts))
    missing = [p for p in parts if not (directory / p).is_dir()]
    if missing:
        raise ModelError(f"The model {place} is incomplete: {', '.join(missing)} missing. Download it again.")
    if variant:
        held = {f.name for part in parts for f in (directory / part).iterdir()}
        if not any(f".{variant}." in name for name in held):
            raise ModelError(f"The model {place} has no variant {variant!r}; leave the variant out.")
    for part in parts:
        for file in sorted((directory / part).glob("*.safetensors")):
            _check_weights(file)
    return [k for k, v in index.items() if v == [None, None]]


def _check_weights(file: Path) -> None:
    """Read the header of a weights file, which tells its length: catches half downloads and pointers in no time."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"The weights file {file} is damaged ({error}). Download it again.") from None


def _upcasts(directory: Path) -> bool:
    config = directory / "vae" / "config.json"
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("force_upcast"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no remarks of the loaders; what the user had set is restored."""
    import diffusers.utils.logging as d
    import transformers.utils.logging as t

    bars = [(lib, lib.is_progress_bar_enabled()) for lib in (d, t)]
    levels = [(lib, lib.get_verbosity()) for lib in (d, t)]
    try:
        for lib in (d, t):
            lib.set_verbosity_error()
            lib.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for lib, level in levels:
            lib.set_verbosity(level)
        for lib, enabled in bars:
            if enabled:
                lib.enable_progress_bar()
