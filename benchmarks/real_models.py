"""Pipeline directories of real size with random weights, for measurements where no weights can be had.

Denoisers and autoencoders have the published configurations. Text encoders have the published widths and one layer:
they run once per prompt and are not what is measured. FLUX has its true width and a reduced depth.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as D
import torch
import transformers as T
from torch.overrides import TorchFunctionMode

_RANDOM = {torch.Tensor.normal_, torch.Tensor.uniform_}


class _SkipInit(TorchFunctionMode):
    """Leaves the slow random initialisation out; the weights are filled afterwards."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return args[0] if func in _RANDOM else func(*args, **(kwargs or {}))


def filled(build: Callable[[], torch.nn.Module], dtype: torch.dtype) -> Any:
    """Build a model and fill every matrix with N(0, 0.02) numbers (repeated blocks of a million, for speed)."""
    with _SkipInit():
        model = build()
    model = model.to(dtype).eval()
    block = torch.empty(1 << 20).normal_(0, 0.02, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                if name.endswith("bias"):
                    parameter.zero_()
                continue  # norms keep their ones
            flat = parameter.view(-1)
            for start in range(0, flat.numel(), block.numel()):
                part = flat[start : start + block.numel()]
                part.copy_(block[: part.numel()])
    return model


def _clip_tokenizer() -> T.CLIPTokenizer:
    alphabet = [chr(c) for c in range(33, 127)]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet)]
    tokens += [f"<{i}>" for i in range(len(tokens), 49406)] + ["<|startoftext|>", "<|endoftext|>"]
    return T.CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77)


def _t5_tokenizer(length: int) -> T.T5TokenizerFast:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)] + [(chr(c), -6.0) for c in range(33, 127)]
    return T.T5TokenizerFast(vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=length)


def _clip(width: int, heads: int, projection: bool, dtype: torch.dtype, act: str = "quick_gelu") -> Any:
    config = T.CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2,
        num_attention_heads=heads, projection_dim=width, hidden_act=act, bos_token_id=188, eos_token_id=189,
    )  # fmt: skip
    cls = T.CLIPTextModelWithProjection if projection else T.CLIPTextModel
    return filled(lambda: cls(config), dtype)


def _t5(dtype: torch.dtype) -> Any:
    config = T.T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=1, num_heads=64, feed_forward_proj="gated-gelu"
    )
    return filled(lambda: T.T5EncoderModel(config), dtype)


def _vae(dtype: torch.dtype, latent: int = 4, **config: Any) -> Any:
    return filled(
        lambda: D.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=latent, sample_size=512,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **config,
        ),
        dtype,
    )  # fmt: skip


_SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def sd15_unet(dtype: torch.dtype = torch.float32) -> Any:
    """The UNet of Stable Diffusion 1.5 (860 M parameters)."""
    return filled(
        lambda: D.UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768,
            attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        ),
        dtype,
    )  # fmt: skip


def sd21_unet(dtype: torch.dtype = torch.float32) -> Any:
    """The UNet of Stable Diffusion 2.1 (866 M parameters)."""
    return filled(
        lambda: D.UNet2DConditionModel(
            sample_size=96, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20), use_linear_projection=True,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        ),
        dtype,
    )  # fmt: skip


def sd15(dtype: torch.dtype) -> Any:
    return D.StableDiffusionPipeline(
        vae=_vae(dtype), text_encoder=_clip(768, 12, False, dtype), tokenizer=_clip_tokenizer(), unet=sd15_unet(dtype),
        scheduler=D.DDIMScheduler(**_SD_SCHEDULE, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sd21(dtype: torch.dtype) -> Any:
    return D.StableDiffusionPipeline(
        vae=_vae(dtype), text_encoder=_clip(1024, 16, False, dtype, "gelu"), tokenizer=_clip_tokenizer(),
        unet=sd21_unet(dtype),
        scheduler=D.DDIMScheduler(
            **_SD_SCHEDULE, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl(dtype: torch.dtype) -> Any:
    unet = filled(
        lambda: D.UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20),
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
            transformer_layers_per_block=(1, 2, 10), projection_class_embeddings_input_dim=2816,
            cross_attention_dim=2048,
        ),
        dtype,
    )  # fmt: skip
    return D.StableDiffusionXLPipeline(
        vae=_vae(dtype, scaling_factor=0.13025, force_upcast=True), text_encoder=_clip(768, 12, False, dtype),
        text_encoder_2=_clip(1280, 20, True, dtype, "gelu"), tokenizer=_clip_tokenizer(), tokenizer_2=_clip_tokenizer(),
        unet=unet, scheduler=D.EulerDiscreteScheduler(**_SD_SCHEDULE, timestep_spacing="leading"),
        add_watermarker=False,
    )  # fmt: skip


def pixart_sigma(dtype: torch.dtype) -> Any:
    transformer = filled(
        lambda: D.PixArtTransformer2DModel(
            sample_size=64, num_layers=28, patch_size=2, attention_head_dim=72, num_attention_heads=16, in_channels=4,
            out_channels=8, caption_channels=4096, cross_attention_dim=1152, norm_type="ada_norm_single",
            num_embeds_ada_norm=1000, norm_elementwise_affine=False, norm_eps=1e-6, attention_bias=True,
            activation_fn="gelu-approximate", use_additional_conditions=False,
        ),
        dtype,
    )  # fmt: skip
    return D.PixArtSigmaPipeline(
        tokenizer=_t5_tokenizer(300), text_encoder=_t5(dtype), vae=_vae(dtype, scaling_factor=0.13025),
        transformer=transformer, scheduler=D.DPMSolverMultistepScheduler(),
    )  # fmt: skip


def sd3_medium(dtype: torch.dtype) -> Any:
    transformer = filled(
        lambda: D.SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, attention_head_dim=64,
            num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
            pos_embed_max_size=192,
        ),
        dtype,
    )  # fmt: skip
    return D.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(
            dtype, 16, shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False
        ),
        text_encoder=_clip(768, 12, True, dtype), tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(1280, 20, True, dtype, "gelu"), tokenizer_2=_clip_tokenizer(),
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


def flux_short(dtype: torch.dtype) -> Any:
    """FLUX.1 of true width with 1 double and 2 single blocks (of 19 and 38)."""
    transformer = filled(
        lambda: D.FluxTransformer2DModel(
            patch_size=1, in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=128,
            num_attention_heads=24, joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        ),
        dtype,
    )  # fmt: skip
    return D.FluxPipeline(
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(
            dtype, 16, shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False
        ),
        text_encoder=_clip(768, 12, False, dtype), tokenizer=_clip_tokenizer(), text_encoder_2=_t5(dtype),
        tokenizer_2=_t5_tokenizer(512), transformer=transformer,
    )  # fmt: skip


#: Name → (builder, two activations to read).
MODELS: dict[str, tuple[Callable[[torch.dtype], Any], list[str]]] = {
    "sd15": (sd15, ["up_blocks.1", "up_blocks.2.attentions.1.transformer_blocks.0.attn2.q"]),
    "sd21": (sd21, ["up_blocks.1", "up_blocks.2.attentions.1.transformer_blocks.0.attn2.q"]),
    "sdxl": (sdxl, ["up_blocks.0.attentions.0.transformer_blocks.7", "up_blocks.1.attentions.0.transformer_blocks.0"]),
    "pixart-sigma": (pixart_sigma, ["transformer_blocks.13", "transformer_blocks.20.attn1.q"]),
    "sd3-medium": (sd3_medium, ["transformer_blocks.9", "transformer_blocks.12.adaln"]),
    "flux-short": (flux_short, ["transformer_blocks.0", "single_transformer_blocks.1.adaln"]),
}


def write(name: str, folder: Path, dtype: torch.dtype) -> Path:
    """Write the pipeline directory of ``name`` under ``folder`` unless it is there; returns it."""
    path = folder / f"{name}-{str(dtype).removeprefix('torch.')}"
    if not (path / "model_index.json").is_file():
        MODELS[name][0](dtype).save_pretrained(path)
    return path
