"""Models from names, hub ids and directories, with one clear error where they cannot be had."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from diffeat import zoo
from diffeat.backbones.card import Card, cards
from diffeat.backbones.families import family_of
from diffeat.backbones.family import Family
from diffeat.backbones.files import is_path, said
from diffeat.backbones.folder import INDEX, PipelineFolder, check_config, quantiser, read_index
from diffeat.backbones.foreign import explain
from diffeat.backbones.hub import MIRROR, UnreachableError, fetch_file, mirrored, snapshot
from diffeat.backbones.named import ModelName
from diffeat.backbones.placement import dtype_of
from diffeat.backbones.single_file import base_of, is_single_file, load_single_file
from diffeat.errors import InvalidValueError, ModelError, UnknownNameError, did_you_mean, shown

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedModel

T = TypeVar("T")


def resolve_model(name: str) -> list[str]:
    """Hub ids or local paths to try, in order.

    Args:
        name: A model name of diffeat, a hub id, or a path, as :class:`~diffeat.backbones.named.ModelName` reads it; the
            last two are returned as they are.

    Raises:
        UnknownNameError: If it is none of these.
    """
    asked = ModelName.parse(str(name))
    name = os.path.expanduser(asked.name)
    if _is_pipeline(Path(name)):
        return [name]  # a directory of that name goes before a name of ours
    if name in zoo.names():
        return [str(zoo.path(name))]
    if name in cards():
        own = mirrored(name, asked.revision, asked.variant)
        return ([str(own)] if own else []) + list(cards()[name].ids)
    if "/" in name or os.path.lexists(name) or name.startswith((".", "~")):
        return [name]
    raise UnknownNameError(
        f"{name!r} is no model name, hub id (owner/name) or existing directory. "
        + did_you_mean(name, [*cards(), *zoo.names()])
    )


def local_place(name: str) -> Path | None:
    """The file or folder of this machine that a model's name means; ``None`` for names of diffeat and hub ids."""
    path = Path(os.path.expanduser(name))
    named = name in zoo.names() or name in cards()
    return path if os.path.lexists(path) and (not named or _is_pipeline(path)) else None


def model_asked(text: str, revision: str | None = None, variant: str | None = None) -> ModelName:
    """A model as it is written and asked for; refused if it says something that such a model does not use."""
    asked = ModelName.parse(str(text))
    asked = replace(asked, revision=revision or asked.revision, variant=variant or asked.variant)
    place = local_place(asked.name)
    is_file = place is not None and place.is_file()
    unused = {
        "base": None if is_file else "belongs to models in one file",
        "variant": "belongs to folders and repositories, which hold several" if is_file else None,
        "revision": "belongs to repositories of the hub" if place or asked.name in zoo.names() else None,
    }
    for option, why in unused.items():
        if why is not None and getattr(asked, option) is not None:
            raise InvalidValueError(f"The model {shown(asked.name)} takes no {option}, which {why}: leave it out.")
    return asked


def load_pipeline(
    id_or_path: str, dtype: torch.dtype | str | None = None, revision: str | None = None, variant: str | None = None
) -> DiffusionPipeline:
    """Load a diffusers pipeline, quietly, from the first place that the name stands for and has a usable one."""
    precision = dtype_of(dtype) or torch.float32
    asked = model_asked(id_or_path, revision, variant)
    if is_single_file(asked.name):
        return _load_file(asked, precision)

    def load(place: str) -> DiffusionPipeline:
        return _load(PipelineFolder.read(_directory(place, asked), asked.variant), place, precision)

    return first_place(str(asked), load)


def load_meta_denoiser(id_or_path: str, revision: str | None = None) -> tuple[nn.Module, Family]:
    """The denoiser of a model on the meta device, from its configuration alone; no weights are read.

    Raises:
        ModelError: If no configuration can be had or its denoiser is unknown.
        UnknownNameError: If the name is no model and no path.
        InvalidValueError: If a revision, variant or base is given that such a model does not use.
    """
    import diffusers

    asked = model_asked(id_or_path, revision)
    if is_single_file(asked.name):
        asked = model_asked(asked.base or base_of(asked.name))

    def load(place: str) -> tuple[nn.Module, Family]:
        if is_path(place):
            _check_directory(place)
        revision = _revision(place, asked)

        def file(name: str) -> Path:
            return Path(place) / name if is_path(place) else fetch_file(place, name, revision)

        classes = read_index(file(INDEX).parent)[1]
        part = next((p for p in ("unet", "transformer") if p in classes), None)
        if part is None:
            raise ModelError(f"The pipeline {place!r} has no unet and no transformer.")
        model_class: Any = getattr(diffusers, classes[part])
        config = check_config(file(f"{part}/config.json"))
        try:
            with torch.device("meta"):
                denoiser = model_class.from_config(config)
            return denoiser.eval(), family_of(denoiser)
        except Exception as error:  # anything that a configuration of nonsense provokes
            raise ModelError(f"The {part} of {place} cannot be built ({said(error)}).") from error

    return first_place(str(asked), load)


def card_of(name: str) -> Card | None:
    """The card of a model name; ``None`` for hub ids, directories and embedded models."""
    name = ModelName.parse(str(name)).name
    return None if _is_pipeline(Path(name)) or name in zoo.names() else cards().get(name)


def pinned(name: str, place: str) -> str | None:
    """The revision that a model's card pins at one of its places."""
    card = card_of(name)
    return card.revision if card is not None and card.ids and place == card.ids[0] else None


def first_place(name: str, load: Callable[[str], T]) -> T:
    """What ``load`` gives for the first of a model's places that works, quietly; one error for all that were tried."""
    reasons: dict[str, ModelError] = {}
    places = resolve_model(name)
    if not places:
        raise ModelError(
            f"The model {name!r} is not on the hub. Download {cards()[ModelName.parse(name).name].weights}, make a "
            "pipeline of it with `diffeat convert FILE --out FOLDER`, and give that folder as the model."
        )
    for place in places:
        try:
            with _quiet():
                return load(place)
        except ModelError as error:
            reasons[place] = error
    local = [error for error in reasons.values() if not isinstance(error, UnreachableError)]
    if local:
        raise local[0]
    tried = "; ".join(f"{place}: {str(reason).rstrip('.')}" for place, reason in reasons.items())
    card = card_of(name)
    gate = f"accept its licence ({card.licence}) on the hub and log in" if card and card.gated else "log in if need be"
    raise ModelError(
        f"The model {name!r} is not on this machine and could not be fetched from the hub ({tried}). Check the name "
        f"and the connection ({gate}), or fetch it elsewhere with `diffeat models get {name} --to FOLDER` and name "
        f"the path of that directory: {MIRROR}=FOLDER."
    )


def _directory(place: str, asked: ModelName, weights: bool = True) -> Path:
    if is_path(place):
        _check_directory(place)
        return Path(place)
    revision = _revision(place, asked)
    read_index(fetch_file(place, INDEX, revision).parent)  # before gigabytes are fetched
    return snapshot(place, revision, asked.variant, weights=weights)


def _revision(place: str, asked: ModelName) -> str | None:
    """The one that is asked for, else that of the card, which a mirror folder need not prove."""
    held = None if asked.revision else mirrored(place, variant=asked.variant)
    return asked.revision or (pinned(asked.name, place) if held is None else None)


def _load_file(asked: ModelName, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline of a single file."""
    file = os.path.expanduser(asked.name)
    base, whole = model_asked(asked.base or base_of(file)), file.endswith(".gguf")
    try:
        folder = first_place(str(base), lambda place: _directory(place, base, weights=whole))
    except ModelError as error:
        if asked.base:
            raise
        taken = f"{file} is taken for {base} by its tensors ({file},base=… says otherwise)."
        raise ModelError(f"{taken} {error}") from error
    with _quiet():
        pipeline = load_single_file(file, folder, dtype)
    for network in pipeline.components.values():
        if isinstance(network, nn.Module):
            _refuse_missing(Path(file), _without_content(network))
    return pipeline


def _is_pipeline(path: Path) -> bool:
    try:
        return (path / INDEX).is_file()
    except (OSError, ValueError):  # a name that is none, a loop of links, no permission
        return False


def _check_directory(place: str) -> None:
    if not _is_pipeline(Path(place)):
        raise explain(place)


def _load(folder: PipelineFolder, place: str, dtype: torch.dtype) -> DiffusionPipeline:
    given: dict[str, Any] = dict.fromkeys(folder.absent)
    try:
        for part, name in folder.classes.items():
            if (text_model := _transformers_model(name)) is not None:
                given[part] = _whole(text_model, folder, part, dtype)
            elif quantiser(folder.config(part)) == "bitsandbytes" and not torch.accelerator.is_available():
                raise ModelError(
                    f"The {part} in {folder.path} is quantised by bitsandbytes, which needs an accelerator, and there "
                    "is none. Load weights that are unquantised, or quantised by torchao or as GGUF."
                )
        pipeline = _text_to_image(folder.pipeline).from_pretrained(
            folder.path,
            **given,
            dtype={"default": dtype, "vae": torch.float32} if folder.config("vae").get("force_upcast") else dtype,
            variant=folder.variant,
            local_files_only=True,
            trust_remote_code=False,
        )
        for part, network in pipeline.components.items():
            if isinstance(network, nn.Module):
                _refuse_missing(folder.path / part, _without_content(network))
        return pipeline
    except ModelError:
        raise
    except Exception as error:  # anything a damaged or foreign directory provokes inside the loaders
        raise ModelError(f"The model {place} could not be loaded ({said(error)}).") from error


def _transformers_model(name: str) -> type[PreTrainedModel] | None:
    """The class of this name if it is a network of transformers."""
    import transformers

    model = getattr(transformers, name, None)
    return model if isinstance(model, type) and issubclass(model, transformers.PreTrainedModel) else None


def _whole(model: Any, folder: PipelineFolder, part: str, dtype: torch.dtype) -> nn.Module:
    """A network of transformers, which would draw weights that are missing at random and only remark on it."""
    loaded, report = model.from_pretrained(
        folder.path / part,
        dtype=dtype,
        variant=folder.variants.get(part),
        local_files_only=True,
        output_loading_info=True,
    )
    _refuse_missing(folder.path / part, report["missing_keys"])
    return loaded.eval()


def _without_content(network: nn.Module) -> list[str]:
    return [name for name, value in network.named_parameters() if _is_empty(value)]


def _is_empty(value: Tensor) -> bool:
    """Whether a weight has no content; that of quantised ones may lie in their parts alone."""
    flatten = None if type(value) in (Tensor, nn.Parameter) else getattr(value, "__tensor_flatten__", None)
    return value.is_meta if flatten is None else any(_is_empty(getattr(value, inner)) for inner in flatten()[0])


def _refuse_missing(folder: Path, missing: Iterable[str]) -> None:
    names = sorted(missing)
    if names:
        raise ModelError(f"The weights in {folder} lack {len(names)} tensors ({names[0]} …). Download them again.")


def _text_to_image(pipeline: str) -> type[DiffusionPipeline]:
    """The class of a pipeline, or the one that makes pictures from texts with the same parts."""
    import diffusers
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING, _get_task_class

    stock = getattr(diffusers, pipeline)
    if not pipeline.endswith("Img2ImgPipeline"):
        return stock
    return _get_task_class(AUTO_TEXT2IMAGE_PIPELINES_MAPPING, pipeline, throw_error_if_not_exist=False) or stock


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
