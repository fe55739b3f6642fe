"""Where the image tokens of a denoiser call lie.

Transformers see an image as a sequence. How long the sequence is, which of its tokens are the image and how they make
a grid follows from the arguments of the call (``img_ids``, ``img_shapes``, the latent's height and width over the
patch size), never from the length of the sequence: a 6×4 grid and a 3×8 grid have the same one.

Two kinds of sequences occur inside one call:

* the *image stream*: image tokens alone, ``[image, padding or reference images]``;
* the *joint sequence*: ``[registers, text, image…]``, or ``[image…, text]`` where :attr:`TokenLayout.image_first`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import ModelError

#: What a part's ``config.json`` says.
Config = Mapping[str, Any]
#: Arguments of a denoiser's call, by name.
Call = Mapping[str, Any]


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


def text_length(value: Any) -> int:
    """Tokens of a text argument: a (batch, tokens, channels) tensor, a list with one tensor per row, or nothing."""
    if value is None:
        return 0
    if isinstance(value, Tensor):
        return value.shape[-2]
    return max(len(v) for v in value)


def map_grid(config: Config, sample: Tensor) -> tuple[int, int]:
    """Rows and columns of tokens of a latent map ``(…, h, w)`` that the denoiser cuts into patches."""
    patch = config.get("patch_size") or 1
    ph, pw = (patch, patch) if isinstance(patch, int) else patch[-2:]
    return sample.shape[-2] // ph, sample.shape[-1] // pw


def by_ids(call: Call) -> TokenLayout:
    """FLUX and kin: each image token has an id (image, row, column, …); reference images follow the image itself."""
    ids = call["img_ids"]
    if ids.is_meta:
        raise ModelError("The positions in img_ids are needed to know the image grid; give them as real numbers.")
    ids = ids[0] if ids.ndim == 3 else ids
    own = ids[ids[:, 0] == ids[0, 0]]
    rows, columns = (int(own[:, k].max() - own[:, k].min()) + 1 for k in (1, 2))
    if rows * columns != len(own):
        raise ModelError(f"The {len(own)} image positions in img_ids do not fill a {rows}x{columns} grid.")
    return TokenLayout(
        (rows, columns), text=text_length(call.get("encoder_hidden_states")), images=call["hidden_states"].shape[1]
    )


def by_shapes(call: Call) -> TokenLayout:
    """Qwen-Image: a list with (frames, h, w) per image, or one such list per batch row; the first is the image."""
    first = call["img_shapes"][0]
    frames, h, w = first[0] if isinstance(first[0], (tuple, list)) else first
    return TokenLayout(
        (frames * h, w), text=text_length(call.get("encoder_hidden_states")), images=call["hidden_states"].shape[1]
    )


def grid_ids(h: int, w: int, axes: int) -> Float[Tensor, "n axes"]:
    """The ids of an ``h``×``w`` image's tokens, row by row: (0, row, column, 0 …)."""
    ids = torch.zeros(h, w, axes)
    ids[..., 1] = torch.arange(h)[:, None]
    ids[..., 2] = torch.arange(w)
    return ids.reshape(h * w, axes)


def pack_patches(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
    """One token per 2×2 patch, row by row; the channels of a token run over (channel, row, column)."""
    b, c, h, w = latents.shape
    patches = latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, h // 2 * (w // 2), c * 4)


def unpack_patches(tokens: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Inverse of :func:`pack_patches` for a latent of ``size = (h, w)``."""
    h, w = size
    patches = tokens.reshape(len(tokens), h // 2, w // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(len(tokens), -1, h, w)
