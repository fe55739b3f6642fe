"""Token layouts: every case states by hand what the stock forward of that class does with its arguments.

The grids, text lengths and first image tokens are those recorded in the reference data (one call per family).
"""

from __future__ import annotations

import pytest
import torch

from diffeat.backbones import TokenLayout, layout_of
from diffeat.errors import ModelError

IDS = torch.cartesian_prod(torch.zeros(1), torch.arange(5.0), torch.arange(3.0), torch.zeros(1))
Z = torch.zeros


def denoiser(class_name, **config):
    return type(class_name, (torch.nn.Module,), {"config": config})()


# (class, config, kwargs, grid, {sequence length: first image token})
CASES = {
    "auraflow": (
        denoiser("AuraFlowTransformer2DModel", patch_size=2),
        {"hidden_states": Z(2, 4, 8, 12), "encoder_hidden_states": Z(1, 9, 16)},
        (4, 6),
        {24: 0, 41: 17},
    ),
    "dit": (
        denoiser("DiTTransformer2DModel", patch_size=2),
        {"hidden_states": Z(2, 4, 8, 8)},
        (4, 4),
        {16: 0},
    ),
    "flux": (
        denoiser("FluxTransformer2DModel", patch_size=1),
        {"hidden_states": Z(2, 15, 64), "encoder_hidden_states": Z(1, 9, 24), "img_ids": IDS[:, :3]},
        (5, 3),
        {15: 0, 24: 9},
    ),
    "flux2": (
        denoiser("Flux2Transformer2DModel", patch_size=1),
        {"hidden_states": Z(2, 15, 16), "encoder_hidden_states": Z(1, 9, 24), "img_ids": IDS[None]},
        (5, 3),
        {15: 0, 24: 9},
    ),
    "hunyuandit": (
        denoiser("HunyuanDiT2DModel", patch_size=2),
        {"hidden_states": Z(2, 4, 8, 12), "encoder_hidden_states": Z(1, 9, 16)},
        (4, 6),
        {24: 0},
    ),
    "lumina2": (
        denoiser("Lumina2Transformer2DModel", patch_size=2),
        {
            "hidden_states": Z(1, 16, 8, 10),
            "encoder_hidden_states": Z(1, 9, 16),
            "encoder_attention_mask": torch.ones(1, 9),
        },
        (4, 5),
        {20: 0, 29: 9},
    ),
    "pixart": (
        denoiser("PixArtTransformer2DModel", patch_size=2),
        {"hidden_states": Z(2, 4, 8, 12), "encoder_hidden_states": Z(1, 9, 16)},
        (4, 6),
        {24: 0},
    ),
    "qwenimage": (
        denoiser("QwenImageTransformer2DModel", patch_size=2),
        {
            "hidden_states": Z(2, 20, 16),
            "encoder_hidden_states": Z(1, 9, 16),
            "img_shapes": [[(1, 5, 4)]] * 2,
        },
        (5, 4),
        {20: 0, 29: 9},
    ),
    "sana": (
        denoiser("SanaTransformer2DModel", patch_size=1),
        {"hidden_states": Z(2, 4, 4, 6)},
        (4, 6),
        {24: 0},
    ),
    "sd3": (
        denoiser("SD3Transformer2DModel", patch_size=2),
        {"hidden_states": Z(2, 16, 8, 12), "encoder_hidden_states": Z(2, 9, 32)},
        (4, 6),
        {24: 0, 33: 0},
    ),
    "zimage": (
        denoiser("ZImageTransformer2DModel", all_patch_size=(2,)),
        {"x": [Z(16, 1, 10, 6)] * 2, "cap_feats": [Z(9, 16), Z(40, 16)]},
        (5, 3),
        {32: 0, 96: 0},
    ),
    "unet": (denoiser("UNet2DConditionModel"), {"sample": Z(2, 4, 8, 12)}, (8, 12), {96: 0}),
    "unlisted map": (
        denoiser("SomeTransformer", patch_size=(1, 2, 2)),
        {"x": Z(1, 4, 1, 8, 6)},
        (4, 3),
        {12: 0},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_grid_and_first_image_token(name):
    model, kwargs, grid, starts = CASES[name]
    layout = layout_of(model, kwargs)
    assert layout.grid == grid
    for length, start in starts.items():
        assert set(layout.starts(length, 2)) == {start}


def test_to_map_finds_marked_tokens_in_packed_rows():
    kwargs = {
        "hidden_states": Z(2, 16, 8, 10),
        "encoder_hidden_states": Z(2, 7, 16),
        "encoder_attention_mask": torch.tensor([[1] * 3 + [0] * 4, [1] * 7]),
    }
    layout = layout_of(denoiser("Lumina2Transformer2DModel", patch_size=2), kwargs)
    tokens = torch.full((2, 27, 1), -1.0)
    for row, text in enumerate((3, 7)):
        tokens[row, text : text + 20, 0] = torch.arange(20.0)
    assert torch.equal(layout.to_map(tokens), torch.arange(20.0).reshape(1, 1, 4, 5).expand(2, 1, 4, 5))


def test_reference_images_are_not_the_image():
    ids = torch.cat([IDS, IDS + torch.tensor([10.0, 0, 0, 0])])
    model = denoiser("Flux2Transformer2DModel")
    layout = layout_of(model, {"hidden_states": Z(1, 30, 16), "img_ids": ids, "encoder_hidden_states": Z(1, 4, 8)})
    assert layout == TokenLayout((5, 3), text=4, images=30)
    assert layout.starts(34, 1) == [4]


def test_nothing_tells_the_grid():
    with pytest.raises(ModelError, match="encoder_hidden_states"):
        layout_of(denoiser("SomeTransformer"), {"encoder_hidden_states": Z(1, 4, 8)})
    with pytest.raises(ModelError, match="7 tokens"):
        TokenLayout((2, 3), text=2).starts(7, 1)
