"""The parts of ``tiny-unet``: a Stable-Diffusion-shaped model small enough to ship and to train on a CPU.

The autoencoder shrinks by 4 (128 px to a 32×32×6 latent). The U-Net has four levels with the block names of Stable
Diffusion 1.5 and text attention at 16×16 and 8×8 (and 4×4 in the middle).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from transformers import CLIPTextModel


#: latent channels: a mean colour and the first details of each 4×4 patch
CHANNELS = 6


@dataclass(frozen=True, slots=True)
class Widths:
    """Channel counts; the defaults are those of the shipped model."""

    vae: tuple[int, int, int] = (32, 64, 64)
    unet: tuple[int, int, int, int] = (48, 96, 128, 128)
    text: int = 128
    text_layers: int = 3


@dataclass
class Parts:
    """The three networks."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text: CLIPTextModel


def make_parts(widths: Widths, seed: int, size: int = 128) -> Parts:
    """Freshly initialised networks, the same for the same seed."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from diffeat.datasets.toyworld.captions import vocabulary
    from tools.zoo.tokenizer import MAX_LENGTH, make_tokenizer

    tokenizer = make_tokenizer(vocabulary())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,  # type: ignore[arg-type]
            up_block_types=("UpDecoderBlock2D",) * 3,  # type: ignore[arg-type]
            block_out_channels=widths.vae,  # type: ignore[arg-type]
            layers_per_block=1,
            latent_channels=CHANNELS,
            norm_num_groups=min(8, widths.vae[0]),
            sample_size=size,
            scaling_factor=1.0,
            mid_block_add_attention=False,
        )
        with torch.no_grad():  # start from a sharp posterior: unit noise would drown all but the largest contrasts
            vae.quant_conv.weight[CHANNELS:] = 0  # type: ignore[index]
            vae.quant_conv.bias[CHANNELS:] = -6  # type: ignore[index]
        unet = UNet2DConditionModel(
            sample_size=size // 4,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            block_out_channels=widths.unet,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=widths.text,
            attention_head_dim=4,
            norm_num_groups=min(16, widths.unet[0]),
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=widths.text,
                intermediate_size=4 * widths.text,
                projection_dim=widths.text,
                num_hidden_layers=widths.text_layers,
                num_attention_heads=4,
                max_position_embeddings=MAX_LENGTH,
                bos_token_id=tokenizer.bos_token_id,  # type: ignore[arg-type]
                eos_token_id=tokenizer.eos_token_id,  # type: ignore[arg-type]
                pad_token_id=tokenizer.pad_token_id,  # type: ignore[arg-type]
            )
        )
    return Parts(vae, unet, text)


def make_scheduler():
    """The noise schedule of Stable Diffusion with v-prediction, as Stable Diffusion 2.1, and DDIM sampling."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def make_pipeline(parts: Parts) -> StableDiffusionPipeline:
    """A stock pipeline around the networks."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    from diffeat.datasets.toyworld.captions import vocabulary
    from tools.zoo.tokenizer import make_tokenizer

    pipeline = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text,
        tokenizer=make_tokenizer(vocabulary()),
        unet=parts.unet,
        scheduler=make_scheduler(),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
