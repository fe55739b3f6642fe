"""Whether the parts of a pipeline fit together, so that a mixture is refused when it is made and not in its use."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from diffeat.backbones.families import config_of
from diffeat.backbones.family import Family
from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def check_parts(pipeline: DiffusionPipeline, denoiser: nn.Module, family: Family) -> None:
    """Refuse a pipeline that lacks a part, or whose parts were made for different models; names both sides."""
    fault = next(_faults(pipeline, denoiser, family), None)
    if fault is not None:
        raise ModelError(f"This {type(pipeline).__name__} cannot be used: {fault}.")


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is one of rectified flow."""
    config = scheduler.config
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(flow) or type(scheduler).__name__.startswith("FlowMatch")


def _faults(pipeline: DiffusionPipeline, denoiser: nn.Module, family: Family) -> Iterator[str]:
    parts = {name: unwrapped(part) for name, part in pipeline.components.items()}
    for name, part in pipeline.components.items():
        if isinstance(part, nn.DataParallel):
            yield f"its {name} is wrapped in {type(part).__name__}, which no pipeline runs; give {name}.module"
    if type(pipeline).__name__.endswith("Img2ImgPipeline"):
        yield "it changes a given picture; give AutoPipelineForText2Image.from_pipe(pipeline)"
    missing = [name for name in _needed(pipeline, parts) if parts.get(name) is None]
    if missing:
        yield f"it has no {' and no '.join(missing)}; load the whole pipeline"
        return  # what follows looks into them
    kind, config = type(unwrapped(denoiser)).__name__, config_of(denoiser)
    scheduler, vae = parts["scheduler"], parts.get("vae")
    if family.denoiser_class and family.flow != is_flow(scheduler):
        needs = (
            "rectified flow (FlowMatchEulerDiscreteScheduler)" if family.flow else "discrete diffusion (DDIMScheduler)"
        )
        yield f"its {kind} was trained by {needs}, but its scheduler is a {type(scheduler).__name__}"
    takes = family.latent_channels(config)
    gives = None if vae is None else vae.config.get("latent_channels") or vae.config.get("z_dim")
    if takes and gives and takes != gives:
        extra = " (a picture, a mask or another condition is given beside them)" if takes > gives else ""
        yield f"its {kind} takes {takes} channels{extra}, but its {type(vae).__name__} gives latents of {gives}"
    for entry, sources in family.text_widths.items():
        expected = (entry == "cross_attention_dim" and config.get("encoder_hid_dim")) or config.get(entry)
        expected = expected[0] if isinstance(expected, (list, tuple)) else expected
        places = [(name, field) for name, field in (s.split(".") for s in sources) if parts.get(name) is not None]
        widths = [getattr(_text_config(parts[name]), field, 0) for name, field in places]
        if expected and widths and sum(widths) != expected:
            encoders = " and ".join(f"{name} ({type(parts[name]).__name__})" for name in dict(places))
            given = " + ".join(map(str, widths))
            yield f"its {kind} takes texts of width {expected} ({entry}), but {encoders} gives {given}"
    for name, tokenizer in parts.items():
        encoder = parts.get(name.replace("tokenizer", "text_encoder"))
        if name.startswith("tokenizer") and hasattr(tokenizer, "get_vocab") and hasattr(encoder, "config"):
            known = getattr(_text_config(encoder), "vocab_size", None)
            if known and not known / 2 <= len(tokenizer) <= known:
                yield f"its {name} has {len(tokenizer)} tokens, but its {type(encoder).__name__} knows {known}"


def _needed(pipeline: DiffusionPipeline, parts: dict[str, Any]) -> Iterator[str]:
    """Names of the parts without which the stock pipeline does not run."""
    known = inspect.signature(type(pipeline).__init__).parameters
    optional = getattr(pipeline, "_optional_components", [])
    yield from ["scheduler"] if parts.get("scheduler") is None else []
    encoders = [name for name in parts if name.startswith("text_encoder")]
    yield from encoders[:1] if all(parts[name] is None for name in encoders) else []
    for name in parts:
        if name.startswith("tokenizer"):
            encoder = name.replace("tokenizer", "text_encoder")
            yield from [name] if parts.get(encoder) is not None else []
        elif name not in [*optional, *encoders, "scheduler"] and name in known:
            yield from [name] if known[name].default is inspect.Parameter.empty else []


def _text_config(encoder: Any) -> Any:
    config = encoder.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config
