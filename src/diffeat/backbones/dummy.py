"""Arguments for a denoiser's forward pass that have the right shapes and no content, on the meta device.

Good for measuring a network without weights: shapes, execution order, operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffeat.errors import ModelError

Size = tuple[int, int]


def _meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def dummy_inputs(denoiser: nn.Module, latent: Size | None = None) -> dict[str, Any]:
    """Keyword arguments of ``denoiser.forward`` for one image.

    Args:
        denoiser: On any device; only its class and config are read.
        latent: ``(h, w)`` of the latent before any packing; by default what the config is made for.

    Raises:
        ModelError: A class whose arguments are not known here.
    """
    rule = _RULES.get(type(denoiser).__name__)
    if rule is None:
        raise ModelError(
            f"The arguments of a {type(denoiser).__name__} are not known; give those of a real call as `inputs=`."
        )
    config = getattr(denoiser, "config", None)
    return rule(config, latent or default_latent(denoiser))


def default_latent(denoiser: nn.Module) -> Size:
    """Height and width of the latent a denoiser is made for, before any packing."""
    size = getattr(getattr(denoiser, "config", None), "sample_size", None)
    if isinstance(size, (tuple, list)):
        return int(size[0]), int(size[1])
    if size:
        return int(size), int(size)
    return (64, 64) if type(denoiser).__name__ == "Flux2Transformer2DModel" else (128, 128)


def _unet_condition(config: Any, latent: Size) -> dict[str, Any]:
    width = config.encoder_hid_dim or config.cross_attention_dim
    width = width[0] if isinstance(width, (tuple, list)) else width
    inputs: dict[str, Any] = {
        "sample": _meta(1, config.in_channels, *latent),
        "timestep": _meta(1),
        "encoder_hidden_states": _meta(1, 77, width),
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": _meta(1, pooled), "time_ids": _meta(1, 6)}
    if config.class_embed_type == "projection" or config.class_embed_type == "simple_projection":
        inputs["class_labels"] = _meta(1, config.projection_class_embeddings_input_dim)
    elif config.num_class_embeds or config.class_embed_type == "timestep":
        inputs["class_labels"] = torch.empty(1, dtype=torch.long, device="meta")
    return inputs


def _unet(config: Any, latent: Size) -> dict[str, Any]:
    inputs = {"sample": _meta(1, config.in_channels, *latent), "timestep": _meta(1)}
    if config.class_embed_type is not None or config.num_class_embeds is not None:
        inputs["class_labels"] = torch.empty(1, dtype=torch.long, device="meta")
    return inputs


def _dit(config: Any, latent: Size) -> dict[str, Any]:
    labels = torch.empty(1, dtype=torch.long, device="meta")
    return {
        "hidden_states": _meta(1, config.in_channels, *latent),
        "timestep": _meta(1),
        "class_labels": labels,
    }


def _pixart(config: Any, latent: Size) -> dict[str, Any]:
    micro = config.use_additional_conditions
    if micro is None:
        micro = config.sample_size == 128
    return {
        "hidden_states": _meta(1, config.in_channels, *latent),
        "encoder_hidden_states": _meta(1, 300, config.caption_channels),
        "timestep": _meta(1),
        "added_cond_kwargs": {
            "resolution": _meta(1, 2) if micro else None,
            "aspect_ratio": _meta(1, 1) if micro else None,
        },
    }


def _hunyuan(config: Any, latent: Size) -> dict[str, Any]:
    tokens = (latent[0] // config.patch_size) * (latent[1] // config.patch_size)
    return {
        "hidden_states": _meta(1, config.in_channels, *latent),
        "timestep": _meta(1),
        "encoder_hidden_states": _meta(1, 77, config.cross_attention_dim),
        "text_embedding_mask": _meta(1, 77),
        "encoder_hidden_states_t5": _meta(1, 256, config.cross_attention_dim_t5),
        "text_embedding_mask_t5": _meta(1, 256),
        "image_meta_size": _meta(1, 6),
        "style": torch.empty(1, dtype=torch.long, device="meta"),
        "image_rotary_emb": (
            _meta(tokens, config.attention_head_dim),
            _meta(tokens, config.attention_head_dim),
        ),
    }


def _sd3(config: Any, latent: Size) -> dict[str, Any]:
    return {
        "hidden_states": _meta(1, config.in_channels, *latent),
        "encoder_hidden_states": _meta(1, 333, config.joint_attention_dim),
        "pooled_projections": _meta(1, config.pooled_projection_dim),
        "timestep": _meta(1),
    }


def _aura_flow(config: Any, latent: Size) -> dict[str, Any]:
    return {
        "hidden_states": _meta(1, config.in_channels, *latent),
        "encoder_hidden_states": _meta(1, 256, config.joint_attention_dim),
        "timestep": _meta(1),
    }


def _lumina2(config: Any, latent: Size) -> dict[str, Any]:
    return {
        "hidden_states": _meta(1, config.in_channels, *latent),
        "timestep": _meta(1),
        "encoder_hidden_states": _meta(1, 256, config.cap_feat_dim),
        "encoder_attention_mask": torch.ones(1, 256, dtype=torch.long),
    }


def _sana(config: Any, latent: Size) -> dict[str, Any]:
    return {
        "hidden_states": _meta(1, config.in_channels, *latent),
        "encoder_hidden_states": _meta(1, 300, config.caption_channels),
        "timestep": _meta(1),
    }


def _chroma(config: Any, latent: Size) -> dict[str, Any]:
    h, w = latent[0] // 2, latent[1] // 2
    return {
        "hidden_states": _meta(1, h * w, config.in_channels),
        "encoder_hidden_states": _meta(1, 512, config.joint_attention_dim),
        "timestep": _meta(1),
        "img_ids": _positions(h, w, len(config.axes_dims_rope)),
        "txt_ids": torch.zeros(512, len(config.axes_dims_rope)),
    }


def _flux(config: Any, latent: Size) -> dict[str, Any]:
    pooled = _meta(1, config.pooled_projection_dim)
    guidance = _meta(1) if config.guidance_embeds else None
    return {**_chroma(config, latent), "pooled_projections": pooled, "guidance": guidance}


def _flux2(config: Any, latent: Size) -> dict[str, Any]:
    h, w = latent  # FLUX.2 latents have a stride of 16: its pipelines fold 2x2 patches before they noise them
    axes = len(config.axes_dims_rope)
    return {
        "hidden_states": _meta(1, h * w, config.in_channels),
        "encoder_hidden_states": _meta(1, 512, config.joint_attention_dim),
        "timestep": _meta(1),
        "img_ids": _positions(h, w, axes)[None],
        "txt_ids": torch.zeros(1, 512, axes),
        "guidance": _meta(1) if config.guidance_embeds else None,
    }


def _qwen_image(config: Any, latent: Size) -> dict[str, Any]:
    h, w = latent[0] // 2, latent[1] // 2
    return {
        "hidden_states": _meta(1, h * w, config.in_channels),
        "encoder_hidden_states": _meta(1, 256, config.joint_attention_dim),
        "timestep": _meta(1),
        "img_shapes": [[(1, h, w)]],
    }


def _z_image(config: Any, latent: Size) -> dict[str, Any]:
    return {
        "x": [_meta(config.in_channels, 1, *latent)],
        "t": _meta(1),
        "cap_feats": [_meta(256, config.cap_feat_dim)],
    }


def _positions(h: int, w: int, axes: int) -> Tensor:
    ids = torch.zeros(h, w, axes)
    ids[..., 1] = torch.arange(h)[:, None]
    ids[..., 2] = torch.arange(w)
    return ids.reshape(h * w, axes)


_RULES: dict[str, Callable[[Any, Size], dict[str, Any]]] = {
    "AuraFlowTransformer2DModel": _aura_flow,
    "ChromaTransformer2DModel": _chroma,
    "DiTTransformer2DModel": _dit,
    "Flux2Transformer2DModel": _flux2,
    "FluxTransformer2DModel": _flux,
    "HunyuanDiT2DModel": _hunyuan,
    "Lumina2Transformer2DModel": _lumina2,
    "PixArtTransformer2DModel": _pixart,
    "QwenImageTransformer2DModel": _qwen_image,
    "SD3Transformer2DModel": _sd3,
    "SanaTransformer2DModel": _sana,
    "UNet2DConditionModel": _unet_condition,
    "UNet2DModel": _unet,
    "ZImageTransformer2DModel": _z_image,
}
