"""Tiny text encoders, one or two layers of 8 channels."""

from __future__ import annotations

from typing import Any

import transformers as T

from tiny import tokenizers

WIDTH = 8


def clip(projection: bool = False) -> Any:
    tokenizer = tokenizers.clip()
    config = T.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (T.CLIPTextModelWithProjection if projection else T.CLIPTextModel)(config).eval()


def t5(width: int = WIDTH, universal: bool = False) -> Any:
    model, config = (T.UMT5EncoderModel, T.UMT5Config) if universal else (T.T5EncoderModel, T.T5Config)
    shape = {"d_model": width, "d_kv": 4, "d_ff": WIDTH, "num_layers": 1, "num_heads": 2}
    return model(
        config(
            vocab_size=len(tokenizers.t5()),
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
            **shape,
        )
    ).eval()


def bert() -> Any:
    config = T.BertConfig(
        vocab_size=len(tokenizers.bert()),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=WIDTH,
    )
    return T.BertModel(config).eval()


def gemma() -> Any:
    config = T.Gemma2Config(
        vocab_size=len(tokenizers.gemma()),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        head_dim=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=16,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return T.Gemma2Model(config).eval()


def glm() -> Any:
    config = T.GlmConfig(
        vocab_size=len(tokenizers.t5()),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        pad_token_id=None,
    )
    return T.GlmModel(config).eval()


def qwen3(layers: int = 2, language_model: bool = False) -> Any:
    config = T.Qwen3Config(
        vocab_size=len(tokenizers.qwen()),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=1024,
    )
    return (T.Qwen3ForCausalLM if language_model else T.Qwen3Model)(config).eval()


def qwen_vl() -> Any:
    text = {
        "vocab_size": len(tokenizers.qwen()),
        "hidden_size": 16,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
    }
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": 16}
    config = T.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return T.Qwen2_5_VLForConditionalGeneration(config).eval()
