"""Where the image tokens of a denoiser call lie.

Transformers see an image as a sequence. How long the sequence is, which of its tokens are the image and how they make
a grid follows from the arguments of the call (``img_ids``, ``img_shapes``, the latent's height and width over the
patch size), never from the length of the sequence: a 6×4 grid and a 3×8 grid have the same one.

Two kinds of sequences occur inside one call:

* the *image stream*: image tokens alone, ``[image, padding or reference images]``;
* the *joint sequence*: ``[registers, text, image…]``, or ``[image…, text]`` where :attr:`TokenLayout.image_first`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeat.errors import ModelError


@dataclass(frozen=True)
class TokenLayout:
    """The token sequences of one denoiser call.

    Attributes:
        grid: Rows and columns ``(h, w)`` of image tokens; for convolutional denoisers, of the input sample.
        text: Tokens of the joint sequence that do not belong to the image stream (text, its padding, registers); 0
            where text only enters by cross-attention.
        image_first: Whether the image stream comes before the text in the joint sequence.
        images: Length of the image stream; more than ``h * w`` where it is padded or holds reference images, which
            follow the image itself.
        registers: Learned tokens at the very start of the joint sequence, counted in ``text``.
        rows: Where texts of different lengths are packed without gaps, the text tokens of each batch row.
    """

    grid: tuple[int, int]
    text: int = 0
    image_first: bool = False
    images: int = 0
    registers: int = 0
    rows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", self.images or self.tokens)

    @property
    def tokens(self) -> int:
        """Number of tokens of the image itself."""
        return self.grid[0] * self.grid[1]

    @property
    def joint(self) -> int:
        """Length of the joint sequence."""
        return self.text + self.images

    def starts(self, length: int, batch: int) -> list[int]:
        """First image token in each row of a sequence of ``length`` tokens.

        Raises:
            ModelError: If a sequence of this length is neither the image stream nor the joint sequence.
        """
        if length in (self.tokens, self.images):
            return [0] * batch
        if length == self.joint:
            if self.image_first:
                return [0] * batch
            if self.rows is None:
                return [self.text] * batch
            if len(self.rows) == batch:
                return list(self.rows)
            if len(set(self.rows)) == 1:
                return [self.rows[0]] * batch
        raise ModelError(
            f"A sequence of {length} tokens in a batch of {batch} is neither the image stream ({self.images} tokens, a "
            f"{self.grid[0]}x{self.grid[1]} grid) nor the joint sequence ({self.joint} tokens) of this denoiser call."
        )

    def to_map(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b c h w"]:
        """The image tokens of a sequence as a map; a view where all rows start at the same token.

        Raises:
            ModelError: If the sequence is of neither known length.
        """
        batch, length, channels = tokens.shape
        starts = self.starts(length, batch)
        if len(set(starts)) == 1:
            image = tokens[:, starts[0] : starts[0] + self.tokens]
        else:
            image = torch.stack([row[s : s + self.tokens] for row, s in zip(tokens, starts, strict=True)])
        return image.transpose(1, 2).reshape(batch, channels, *self.grid)

    def text_start(self) -> int:
        """First text token in the joint sequence (not counting registers)."""
        return self.images if self.image_first else self.registers


def layout_of(denoiser: nn.Module, kwargs: Mapping[str, Any]) -> TokenLayout:
    """Layout of the token sequences of ``denoiser.forward(**kwargs)``.

    Known by the class of the denoiser for the families of diffeat; others are read off their arguments (``img_ids``,
    ``img_shapes``, or a latent map and the configured patch size).

    Args:
        denoiser: A diffusers denoiser, possibly on the meta device.
        kwargs: The arguments of the call, bound to their names.

    Raises:
        ModelError: If nothing in the arguments tells the grid.
    """
    rule = _RULES.get(_class_name(denoiser), _generic)
    return rule(_config(denoiser), kwargs)


def _class_name(denoiser: nn.Module) -> str:
    """The name of the stock class: wrappers (compilation, sharding) keep the model in a ``_orig_mod`` or ``module``."""
    for attribute in ("_orig_mod", "module"):
        inner = getattr(denoiser, attribute, None)
        if isinstance(inner, nn.Module) and not hasattr(type(denoiser), "load_config"):
            return _class_name(inner)
    for cls in type(denoiser).__mro__:
        if cls.__name__ in _RULES:
            return cls.__name__
    return type(denoiser).__name__


def _config(denoiser: nn.Module) -> Mapping[str, Any]:
    config = getattr(denoiser, "config", None)
    return config if isinstance(config, Mapping) else {}


def _length(value: Any) -> int:
    """Tokens of a text argument: a (batch, tokens, channels) tensor, or a list with one tensor per row."""
    if value is None:
        return 0
    if isinstance(value, Tensor):
        return value.shape[-2]
    return max(len(v) for v in value)


def _patch(config: Mapping[str, Any]) -> tuple[int, int]:
    patch = config.get("patch_size") or 1
    if isinstance(patch, int):
        return patch, patch
    return patch[-2], patch[-1]


def _map_grid(config: Mapping[str, Any], sample: Tensor) -> tuple[int, int]:
    ph, pw = _patch(config)
    return sample.shape[-2] // ph, sample.shape[-1] // pw


def _sample(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TokenLayout:
    return TokenLayout((kwargs["sample"].shape[-2], kwargs["sample"].shape[-1]))


def _image_only(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TokenLayout:
    return TokenLayout(_map_grid(config, kwargs["hidden_states"]))


def _image_before_text(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TokenLayout:
    grid = _map_grid(config, kwargs["hidden_states"])
    return TokenLayout(grid, text=_length(kwargs.get("encoder_hidden_states")), image_first=True)


def _text_before_image(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TokenLayout:
    grid = _map_grid(config, kwargs["hidden_states"])
    return TokenLayout(grid, text=_length(kwargs.get("encoder_hidden_states")))


def _aura_flow(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TokenLayout:
    registers = 8  # AuraFlowTransformer2DModel.register_tokens; a constant there, not a config entry
    grid = _map_grid(config, kwargs["hidden_states"])
    return TokenLayout(grid, text=registers + _length(kwargs.get("encoder_hidden_states")), registers=registers)


def _by_ids(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TokenLayout:
    """FLUX and kin: each image token has an id (image, row, column, …); reference images follow the image itself."""
    ids = kwargs["img_ids"]
    if ids.is_meta:
        raise ModelError("The positions in img_ids are needed to know the image grid; give them as real numbers.")
    ids = ids[0] if ids.ndim == 3 else ids
    own = ids[ids[:, 0] == ids[0, 0]]
    rows, columns = (int(own[:, k].max() - own[:, k].min()) + 1 for k in (1, 2))
    if rows * columns != len(own):
        raise ModelError(f"The {len(own)} image positions in img_ids do not fill a {rows}x{columns} grid.")
    return TokenLayout(
        (rows, columns),
        text=_length(kwargs.get("encoder_hidden_states")),
        images=kwargs["hidden_states"].shape[1],
    )


def _by_shapes(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TokenLayout:
    """Qwen-Image: a list with (frames, h, w) per image, or one such list per batch row; the first is the image."""
    shapes = kwargs["img_shapes"]
    first = shapes[0]
    frames, h, w = first[0] if isinstance(first[0], (tuple, list)) else first
    return TokenLayout(
        (frames * h, w),
        text=_length(kwargs.get("encoder_hidden_states")),
        images=kwargs["hidden_states"].shape[1],
    )


def _lumina2(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TokenLayout:
    """Texts are packed to their true length: [text of this row, image, nothing up to the longest row]."""
    grid = _map_grid(config, kwargs["hidden_states"])
    mask = kwargs.get("encoder_attention_mask")
    if mask is None or mask.is_meta:
        return TokenLayout(grid, text=_length(kwargs.get("encoder_hidden_states")))
    rows = tuple(int(n) for n in mask.sum(dim=1).tolist())
    return TokenLayout(grid, text=max(rows), rows=rows)


def _z_image(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TokenLayout:
    """[image padded to a multiple of 32, text padded to a multiple of 32]; x is a list of (channels, 1, h, w)."""
    multiple = 32  # SEQ_MULTI_OF of diffusers' transformer_z_image
    x, texts = kwargs["x"], kwargs["cap_feats"]
    if isinstance(x[0], (list, tuple)):
        raise ModelError("Z-Image calls with several images per row (omni mode) are not supported.")
    patch = kwargs.get("patch_size") or config["all_patch_size"][0]
    h, w = x[0].shape[-2] // patch, x[0].shape[-1] // patch
    text = max(len(t) for t in texts)
    images = h * w + -(h * w) % multiple
    return TokenLayout((h, w), text=text + -text % multiple, image_first=True, images=images)


def _generic(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TokenLayout:
    if kwargs.get("img_ids") is not None:
        return _by_ids(config, kwargs)
    if kwargs.get("img_shapes") is not None:
        return _by_shapes(config, kwargs)
    for name in ("sample", "hidden_states", "x"):
        value = kwargs.get(name)
        if isinstance(value, Tensor) and value.ndim in (4, 5):
            h, w = _map_grid(config, value)
            frames = value.shape[2] if value.ndim == 5 else 1
            return TokenLayout((frames * h, w), text=_length(kwargs.get("encoder_hidden_states")))
    raise ModelError(
        "Nothing in this denoiser call tells how its image tokens lie: there is no latent map, no img_ids and no "
        f"img_shapes among its arguments ({', '.join(k for k, v in kwargs.items() if v is not None)})."
    )


_Rule = Callable[[Mapping[str, Any], Mapping[str, Any]], TokenLayout]

_RULES: dict[str, _Rule] = {
    "UNet2DModel": _sample,
    "UNet2DConditionModel": _sample,
    "DiTTransformer2DModel": _image_only,
    "PixArtTransformer2DModel": _image_only,
    "HunyuanDiT2DModel": _image_only,
    "SanaTransformer2DModel": _image_only,
    "SD3Transformer2DModel": _image_before_text,
    "CogView4Transformer2DModel": _text_before_image,
    "AuraFlowTransformer2DModel": _aura_flow,
    "FluxTransformer2DModel": _by_ids,
    "Flux2Transformer2DModel": _by_ids,
    "ChromaTransformer2DModel": _by_ids,
    "QwenImageTransformer2DModel": _by_shapes,
    "Lumina2Transformer2DModel": _lumina2,
    "ZImageTransformer2DModel": _z_image,
}
