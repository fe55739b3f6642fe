"""Whether the parts of a pipeline fit together, so that a mixture is refused when it is made and not in its use."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from diffeat.backbones.families import config_of
from diffeat.backbones.family import Family
from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import ModelError


def check_parts(pipeline: Any, denoiser: nn.Module, family: Family) -> None:
    """Refuse a pipeline that lacks a part, or whose parts were made for different models.

    Raises:
        ModelError: Names both sides.
    """
    fault = next(_faults(pipeline, denoiser, family), None)
    if fault is not None:
        raise ModelError(f"This {type(pipeline).__name__} cannot be used: {fault}.")


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is one of rectified flow."""
    config = scheduler.config
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(flow) or type(scheduler).__name__.startswith("FlowMatch")


def _faults(pipeline: Any, denoiser: nn.Module, family: Family) -> Iterator[str]:
    parts = {name: unwrapped(part) for name, part in pipeline.components.items()}
    for name, part in pipeline.components.items():
        if isinstance(part, nn.DataParallel):
            yield f"its {name} is wrapped in {type(part).__name__}, which no pipeline runs; give {name}.module"
    missing = [name for name in _needed(pipeline, parts) if parts[name] is None]
    if missing:
        yield f"it has no {' and no '.join(missing)}; load the whole pipeline"
        return  # what follows looks into them
    kind, config = type(unwrapped(denoiser)).__name__, config_of(denoiser)
    scheduler, vae = parts["scheduler"], parts.get("vae")
    if family.denoiser_class and family.flow != is_flow(scheduler):
        needs = "rectified flow (FlowMatchEulerDiscreteScheduler)" if family.flow else "discrete diffusion (DDIMScheduler)"
        yield f"its {kind} was trained by {needs}, but its scheduler is a {type(scheduler).__name__}"
    takes = family.latent_channels(config)
    gives = None if vae is None else vae.config.get("latent_channels") or vae.config.get("z_dim")
    if takes and gives and takes != gives:
        extra = " (a picture, a mask or another condition is given beside them)" if takes > gives else ""
        yield f"its {kind} takes {takes} channels{extra}, but its {type(vae).__name__} gives latents of {gives}"
    for entry, sources in family.text_widths.items():
        places = [source.split(".") for source in sources]
        widths = [getattr(_text_config(parts[name]), field, 0) for name, field in places if parts.get(name) is not None]
        width = config.get("encoder_hid_dim") or config.get(entry) if entry == "cross_attention_dim" else config.get(entry)
        width = width[0] if isinstance(width, (list, tuple)) else width
        if width and widths and sum(widths) != width:
            encoders = " and ".join(f"{n} ({type(parts[n]).__name__})" for n in dict(places) if parts.get(n) is not None)
            yield f"its {kind} takes texts of width {width} ({entry}), but {encoders} gives {' + '.join(map(str, widths))}"
    for name, tokenizer in parts.items():
        encoder = parts.get(name.replace("tokenizer", "text_encoder"))
        if name.startswith("tokenizer") and hasattr(tokenizer, "get_vocab") and hasattr(encoder, "config"):
            known = getattr(_text_config(encoder), "vocab_size", None)
            if known and len(tokenizer) > known:
                yield f"its {name} has {len(tokenizer)} tokens, but its {type(encoder).__name__} knows {known}"


def _needed(pipeline: Any, parts: dict[str, Any]) -> Iterator[str]:
    """Names of the parts without which the stock pipeline does not run."""
    known = inspect.signature(type(pipeline).__init__).parameters
    optional = getattr(pipeline, "_optional_components", [])
    encoders = [name for name in parts if name.startswith("text_encoder")]
    for name in parts:
        encoder = parts.get(name.replace("tokenizer", "text_encoder"))
        if name == "scheduler" or (name.startswith("tokenizer") and encoder is not None):
            yield name
        elif name in encoders and all(parts[other] is None for other in encoders):
            yield name
        elif name not in optional and name in known and known[name].default is inspect.Parameter.empty:
            yield name


def _text_config(encoder: Any) -> Any:
    config = encoder.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config
