"""Tiny pipelines: the topology of the real ones (levels, block types, autoencoder factor, text encoders), tiny widths.

    from tiny.pipelines import FAMILIES, build
    pipeline = build("flux")            # the same weights every time

Module paths are those of the real models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as D
import torch

from tiny import encoders, tokenizers

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_DDIM = _BETAS | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
_NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
_HEADS = {"attention_head_dim": 8, "num_attention_heads": 2}


def _vae(channels: int = 4, cls: Any = D.AutoencoderKL, **config: Any) -> Any:
    return cls(
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=channels,
        sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **config,
    ).eval()


def _vae16() -> Any:
    return _vae(16, shift_factor=0.12, scaling_factor=0.36, use_quant_conv=False, use_post_quant_conv=False)


def _unet(**config: Any) -> Any:
    shape: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (4, 8, 8, 8),
        "layers_per_block": 2,
        "norm_num_groups": 2,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    }
    return D.UNet2DConditionModel(**shape | config).eval()


def sd15() -> Any:
    return D.StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=encoders.clip(),
        tokenizer=tokenizers.clip(),
        unet=_unet(),
        scheduler=D.PNDMScheduler(**_BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
        **_NO_CHECKER,
    )


def sd21() -> Any:
    return D.StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=encoders.clip(),
        tokenizer=tokenizers.clip(),
        unet=_unet(use_linear_projection=True, attention_head_dim=(1, 2, 2, 2)),
        scheduler=D.DDIMScheduler(**_DDIM, prediction_type="v_prediction"),
        **_NO_CHECKER,
    )


def sdxl() -> Any:
    unet = _unet(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        transformer_layers_per_block=(1, 2, 3),
        projection_class_embeddings_input_dim=6 * 4 + 8,
        cross_attention_dim=16,
    )
    return D.StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13, force_upcast=True),
        text_encoder=encoders.clip(),
        text_encoder_2=encoders.clip(projection=True),
        tokenizer=tokenizers.clip(),
        tokenizer_2=tokenizers.clip(),
        unet=unet,
        scheduler=D.EulerDiscreteScheduler(**_BETAS, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )


def _pixart_transformer(**config: Any) -> Any:
    shape: dict[str, Any] = {
        "sample_size": 8,
        "num_layers": 3,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 8,
        "caption_channels": 8,
        "cross_attention_dim": 16,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "use_additional_conditions": False,
    }
    return D.PixArtTransformer2DModel(**_HEADS | shape | config).eval()


def _pixart(cls: Any, transformer: Any) -> Any:
    return cls(
        tokenizer=tokenizers.t5(300),
        text_encoder=encoders.t5(),
        vae=_vae(scaling_factor=0.13),
        transformer=transformer,
        scheduler=D.DPMSolverMultistepScheduler(),
    )


def pixart_alpha() -> Any:
    """At sample size 128 this pipeline passes resolution and aspect ratio."""
    transformer = _pixart_transformer(
        sample_size=128, use_additional_conditions=True, attention_head_dim=12, cross_attention_dim=24
    )
    return _pixart(D.PixArtAlphaPipeline, transformer)


def pixart_sigma() -> Any:
    return _pixart(D.PixArtSigmaPipeline, _pixart_transformer())


def dit() -> Any:
    transformer = D.DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        attention_head_dim=4,
        num_attention_heads=2,
    ).eval()
    names = {0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus"}
    return D.DiTPipeline(transformer=transformer, vae=_vae(), scheduler=D.DDIMScheduler(), id2label=names)


def hunyuan_dit() -> Any:
    transformer = D.HunyuanDiT2DModel(
        sample_size=8,
        num_layers=4,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        cross_attention_dim=8,
        cross_attention_dim_t5=8,
        pooled_projection_dim=8,
        activation_fn="gelu-approximate",
        learn_sigma=True,
        **_HEADS,
    ).eval()
    return D.HunyuanDiTPipeline(
        vae=_vae(),
        text_encoder=encoders.bert(),
        tokenizer=tokenizers.bert(),
        text_encoder_2=encoders.t5(),
        tokenizer_2=tokenizers.t5(256),
        transformer=transformer,
        scheduler=D.DDPMScheduler(prediction_type="v_prediction"),
        **_NO_CHECKER,
    )


def sd3(**config: Any) -> Any:
    transformer = D.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=3,
        caption_projection_dim=16,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=16,
        **_HEADS,
        **config,
    ).eval()
    return D.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae16(),
        text_encoder=encoders.clip(projection=True),
        tokenizer=tokenizers.clip(),
        text_encoder_2=encoders.clip(projection=True),
        tokenizer_2=tokenizers.clip(),
        text_encoder_3=encoders.t5(16),
        tokenizer_3=tokenizers.t5(),
    )


def sd35() -> Any:
    return sd3(qk_norm="rms_norm", dual_attention_layers=(0, 1))


def flux() -> Any:
    transformer = D.FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        guidance_embeds=True,
        axes_dims_rope=(4, 2, 2),
    ).eval()
    return D.FluxPipeline(
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae16(),
        text_encoder=encoders.clip(),
        tokenizer=tokenizers.clip(),
        text_encoder_2=encoders.t5(),
        tokenizer_2=tokenizers.t5(),
        transformer=transformer,
    )


def chroma() -> Any:
    """FLUX-like, with T5 alone and a text mask."""
    transformer = D.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        axes_dims_rope=(4, 2, 2),
        approximator_num_channels=8,
        approximator_hidden_dim=8,
        approximator_layers=1,
    ).eval()
    return D.ChromaPipeline(
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae16(),
        text_encoder=encoders.t5(),
        tokenizer=tokenizers.t5(),
        transformer=transformer,
    )


def cogview4() -> Any:
    transformer = D.CogView4Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        text_embed_dim=8,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=16,
        rope_axes_dim=(16, 16),
        **_HEADS,
    ).eval()
    return D.CogView4Pipeline(
        tokenizer=tokenizers.t5(1024, "left"),
        text_encoder=encoders.glm(),
        vae=_vae16(),
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=True),
    )


def aura_flow() -> Any:
    transformer = D.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        caption_projection_dim=16,
        joint_attention_dim=8,
        pos_embed_max_size=64,
        **_HEADS,
    ).eval()
    return D.AuraFlowPipeline(
        tokenizer=tokenizers.t5(256),
        text_encoder=encoders.t5(universal=True),
        vae=_vae(),
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(),
    )


def lumina2() -> Any:
    transformer = D.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 64, 64),
        cap_feat_dim=8,
    ).eval()
    return D.Lumina2Pipeline(
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(),
        vae=_vae16(),
        text_encoder=encoders.gemma(),
        tokenizer=tokenizers.gemma(),
    )


def sana() -> Any:
    transformer = D.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=8,
        sample_size=4,
        **_HEADS,
    ).eval()
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    scales = ((), (), (), (5,), (5,), (5,))
    vae = D.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(4,) * 6,
        decoder_block_out_channels=(4,) * 6,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41,
    ).eval()
    scheduler = D.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return D.SanaPipeline(
        tokenizer=tokenizers.gemma(),
        text_encoder=encoders.gemma(),
        vae=vae,
        transformer=transformer,
        scheduler=scheduler,
    )


def qwen_image() -> Any:
    transformer = D.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 2, 2),
    ).eval()
    vae = D.AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 1.0, 2.0],
    ).eval()
    return D.QwenImagePipeline(
        scheduler=D.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=encoders.qwen_vl(),
        tokenizer=tokenizers.qwen(),
        transformer=transformer,
    )


def z_image() -> Any:
    transformer = D.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=8,
        axes_dims=[4, 2, 2],
        axes_lens=[1024, 64, 64],
    ).eval()
    return D.ZImagePipeline(
        scheduler=D.FlowMatchEulerDiscreteScheduler(),
        vae=_vae16(),
        text_encoder=encoders.qwen3(),
        tokenizer=tokenizers.qwen(),
        transformer=transformer,
    )


def flux2_klein() -> Any:
    transformer = D.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8 * 3,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    ).eval()
    vae = _vae(4, cls=D.AutoencoderKLFlux2)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return D.Flux2KleinPipeline(
        scheduler=D.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=encoders.qwen3(layers=27, language_model=True),  # the pipeline reads layers 9, 18 and 27
        tokenizer=tokenizers.qwen(),
        transformer=transformer,
    )


def ddpm() -> Any:
    unet = D.UNet2DModel(
        sample_size=16,
        block_out_channels=(4, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    return D.DDPMPipeline(unet=unet, scheduler=D.DDPMScheduler())


FAMILIES: dict[str, Callable[[], Any]] = {
    builder.__name__: builder
    for builder in (
        sd15,
        sd21,
        sdxl,
        dit,
        pixart_alpha,
        pixart_sigma,
        hunyuan_dit,
        sd3,
        sd35,
        flux,
        chroma,
        cogview4,
        aura_flow,
        lumina2,
        sana,
        qwen_image,
        z_image,
        flux2_klein,
        ddpm,
    )
}


def build(name: str, seed: int = 0) -> Any:
    """The tiny pipeline of this name, with random weights that depend on ``seed`` alone.

    Zero-initialised weights (gates, output layers) are drawn too, or predictions would be blind to their input.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = FAMILIES[name]()
        denoiser = getattr(pipeline, "transformer", None)
        denoiser = pipeline.unet if denoiser is None else denoiser
        with torch.no_grad():
            for parameter in denoiser.parameters():
                if not parameter.isfinite().all() or not parameter.any():
                    parameter.normal_(std=0.05)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
