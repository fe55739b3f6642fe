"""The parts of ``tiny-dit``: a PixArt-shaped diffusion transformer in the latent of ``tiny-unet``'s autoencoder.

Patches of 2×2 latent cells (8×8 pixels), AdaLN-zero from the timestep, captions by cross-attention from a small T5
encoder. A stock ``PixArtSigmaPipeline`` holds it; sample with ``use_resolution_binning=False``, as that pipeline's
table of sizes has no 128 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tools.zoo.tokenizer import MAX_LENGTH

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
    from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline
    from transformers import PreTrainedTokenizerBase, T5EncoderModel


@dataclass(frozen=True, slots=True)
class DitWidths:
    """Sizes; the defaults are those of the shipped model."""

    channels: int = 160
    heads: int = 5
    blocks: int = 8
    text: int = 96
    text_layers: int = 2


@dataclass
class DitParts:
    """The two networks that are trained."""

    transformer: PixArtTransformer2DModel
    text: T5EncoderModel


def make_t5_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerBase:
    """A ``T5Tokenizer`` in which each of ``words`` (lower case) is one token; other text falls apart into letters."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [("▁" + word, -3.0) for word in sorted(set(words))] + [(chr(c), -8.0) for c in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=MAX_LENGTH)


def make_dit_parts(widths: DitWidths, vocabulary: int, latent_channels: int, seed: int, size: int = 128) -> DitParts:
    """Freshly initialised networks, the same for the same seed; every block starts as the identity (AdaLN-zero)."""
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = PixArtTransformer2DModel(
            num_attention_heads=widths.heads,
            attention_head_dim=widths.channels // widths.heads,
            in_channels=latent_channels,
            out_channels=latent_channels,
            num_layers=widths.blocks,
            cross_attention_dim=widths.channels,
            sample_size=size // 4,
            caption_channels=widths.text,
            use_additional_conditions=False,
        )
        text = T5EncoderModel(
            T5Config(
                vocab_size=vocabulary,
                d_model=widths.text,
                d_kv=widths.text // 4,
                num_heads=4,
                d_ff=4 * widths.text,
                num_layers=widths.text_layers,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
            )
        )
    with torch.no_grad():
        transformer.adaln_single.linear.weight.zero_()
        transformer.adaln_single.linear.bias.zero_()
        transformer.proj_out.weight.zero_()
        transformer.proj_out.bias.zero_()  # type: ignore[union-attr]
        for block in transformer.transformer_blocks:
            block.scale_shift_table.zero_()  # type: ignore[operator, union-attr]
            block.attn2.to_out[0].weight.zero_()  # type: ignore[index, union-attr]
    return DitParts(transformer, text)


def make_dit_scheduler() -> Any:
    """The noise schedule of ``tiny-unet``, predicting velocities (Salimans and Ho 2022)."""
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
    )


def make_dit_pipeline(parts: DitParts, vae: AutoencoderKL) -> PixArtSigmaPipeline:
    """A stock pipeline around the networks."""
    from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline

    from diffeat.datasets.toyworld.captions import vocabulary

    pipeline = PixArtSigmaPipeline(
        tokenizer=make_t5_tokenizer(vocabulary()),  # type: ignore[arg-type]
        text_encoder=parts.text,
        vae=vae,
        transformer=parts.transformer,
        scheduler=make_dit_scheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
