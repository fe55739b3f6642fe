"""FLUX.2 and its klein models: latents are 2×2 patches, normalised by the autoencoder's batch norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from diffeat.backbones.blocks import BlockRule, ModulationRule
from diffeat.backbones.families.flux import Flux, text_tokens
from diffeat.backbones.family import Size, TokenisedText, empty
from diffeat.backbones.layout import Call, Config, grid_ids
from diffeat.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_NORM = ModulationRule("norm1", "", "temb_mod_img")  # one vector for all blocks, given to each
_SINGLE = ModulationRule("norm", "", "temb_mod")


class Flux2(Flux):
    name = "flux2"
    denoiser_class = "Flux2Transformer2DModel"
    text_widths = {"joint_attention_dim": ("text_encoder.hidden_size",) * 3}  # of three layers
    shared = frozenset()
    latent_stride = 16  # the pipelines fold 2×2 patches before they noise them
    blocks = (
        BlockRule("Flux2TransformerBlock", "attn", {"attn": _NORM, "ff": _NORM.later("norm2")}, item=1),
        BlockRule(
            "Flux2SingleTransformerBlock", "attn", {"attn": _SINGLE}, item=1, joint=True, inner="attn.mlp_act_fn"
        ),
    )

    def patch(self, config: Config) -> int:
        return config.get("patch_size") or 1

    def call_arguments(
        self, pipeline: DiffusionPipeline, prompts: list[str], size: tuple[int, int], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        # klein: 1 turns classifier-free guidance off; dev: the scale is embedded, 4 is the pipeline's default
        embedded = bool(pipeline.transformer.config.get("guidance_embeds"))
        guidance = {"guidance_scale": 4.0 if embedded else 1.0}
        return super().call_arguments(pipeline, prompts, size, guidance | dict(options))

    def pack(self, latents: Tensor) -> Tensor:
        return latents.flatten(2).transpose(1, 2)

    def unpack(self, output: Tensor, latents: Tensor) -> Tensor:
        return output.transpose(1, 2).reshape(latents.shape)

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        if type(pipeline).__name__ != "Flux2KleinPipeline":
            raise ModelError("Positions of words are not known for this FLUX.2 pipeline.")
        chat = [{"role": "user", "content": prompt}]
        text = pipeline.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return [TokenisedText(pipeline.tokenizer, text)]

    def dummy(self, config: Config, latent: Size) -> Call:
        h, w = latent
        text = text_tokens(config)
        return {
            "hidden_states": empty(1, h * w, config["in_channels"]),
            "img_ids": grid_ids(h, w, len(config["axes_dims_rope"]))[None],
            **text,
            "txt_ids": text["txt_ids"][None],
            "timestep": empty(1),
            "guidance": empty(1) if config["guidance_embeds"] else None,
        }
