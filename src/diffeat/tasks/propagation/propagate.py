r"""Label propagation: each token takes the labels of the tokens most like it in earlier frames, nearby.

With unit-length features f and soft labels m, token i of a new frame looks at the tokens j of the context frames
within a square window of radius R around its own place, keeps the k of highest cosine over all context frames
together, and takes

.. math:: m_i = \sum_{j \in \mathrm{top}_k(i)} m_j \,
    \frac{\exp(f_i \cdot f_j / \tau)}{\sum_{j'} \exp(f_i \cdot f_{j'} / \tau)} .

The context is the first frame and the last few (DINO's procedure, Caron et al., arXiv:2104.14294; DiTF uses it with
R = 12, k = 5, τ = 0.1 and 7 last frames, DIFT with R = 15, k = 15, τ = 0.2 and 28). Nothing of the size tokens × tokens
is ever made: queries come in square tiles, a tile meets only the window around it, one context frame at a time, and a
running top-k remains.

With the kernel *attention* the model's own takes the place of the cosine: the frame's queries meet the context's keys,
:math:`q_i \cdot k_j / \sqrt{C}`, C channels of a head (``….attn1.q[3]`` and ``….attn1.k[3]``), or of all heads, whose
mean it then is but for a factor that belongs to τ. With one head, τ = 1, R without limit and k all tokens, weights are
what that head would look at if its keys were those of the context. Recent zero-shot video work reads these under
inversion (the recipe's trajectory); ``docs/words.md`` says what was measured.

The steps around it are theirs too, in their order. The first mask comes to the grid by Pillow's nearest pixel. Soft
labels go on as they are; for the result they are enlarged bilinearly to the model's image, each object's are stretched
to 0…1 (small objects would never win otherwise), the highest wins, and its number comes to the original size by
Pillow's nearest pixel.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from pydantic import Field
from torch import Tensor

from diffeat.ambient import neutral
from diffeat.errors import InvalidValueError
from diffeat.evaluation.task import TaskOptions
from diffeat.features import FeatureMap, check_one_map
from diffeat.geometry import Frame
from diffeat.tasks.correspondence.matching import check_same_recipe

#: The side of an attention, and its head.
_SIDE = re.compile(r"\.([qk])(?=(\[\d+\])?$)")


class PropagationOptions(TaskOptions):
    """How labels are carried: the numbers of the module's formula, what is scored, and where the masks go."""

    radius: int = Field(default=12, ge=0, description="Of the window around a token, in tokens; 0 looks everywhere.")
    topk: int = Field(default=5, ge=1, description="Context tokens that a token's labels come from.")
    temperature: float = Field(default=0.1, gt=0, description="Of the weights among them.")
    kernel: Literal["features", "attention"] = Field(
        default="features",
        description="What makes tokens alike: 'features', cosines of one map, or 'attention', a frame's queries on the "
        "others' keys, of a recipe with two maps, ….q and ….k.",
    )
    last_frames: int = Field(default=7, ge=0, description="Frames of context besides the first.")
    frames_of: tuple[Annotated[str, Field(pattern=r"^.+=\d+$")], ...] = Field(
        default=(), description="Another number of last frames for a sequence, VIDEO=NUMBER; repeatable."
    )
    video: tuple[str, ...] = Field(default=(), description="Only this sequence; repeatable.")
    masks: Path | None = Field(
        default=None, description="Folder for the predicted masks, as DAVIS' own evaluation reads them."
    )

    def of_video(self, name: str) -> PropagationOptions:
        """The options for a sequence."""
        return self.model_copy(update={"last_frames": self.frames_by_video.get(name, self.last_frames)})

    @property
    def frames_by_video(self) -> dict[str, int]:
        """Other numbers of last frames, by sequence."""
        return {name: int(count) for name, count in (item.rsplit("=", 1) for item in self.frames_of)}

    def check_maps(self, recipe: str, maps: Sequence[str]) -> None:
        """
        Raises:
            InvalidValueError: A recipe of these maps does not give what the kernel reads.
        """
        if self.kernel == "features":
            check_one_map(recipe, maps)
        elif sorted(match[1] for match in map(_SIDE.search, maps) if match) != ["k", "q"] or (
            len(maps) != 2 or _SIDE.sub("", maps[0]) != _SIDE.sub("", maps[1])
        ):
            raise InvalidValueError(
                "The kernel 'attention' takes queries and keys of one attention, as -a ….attn1.q -a ….attn1.k at one "
                f"timestep; recipe {recipe!r} gives {', '.join(maps) or 'one map'}."
            )

    def __str__(self) -> str:
        kernel = "" if self.kernel == "features" else "kernel attention, "
        frames = " ".join([str(self.last_frames), *(f"({item})" for item in self.frames_of)])
        return (
            f"{kernel}radius {self.radius or 'unlimited'}, top {self.topk}, temperature {self.temperature:g}, "
            f"first and last {frames} frames"
        )


#: Tokens along a tile's side; more is faster and takes more memory.
TILE = 8


@neutral()
def propagate_labels(
    target: Float[Tensor, "c h w"],
    context: Sequence[Float[Tensor, "c h w"]],
    labels: Sequence[Float[Tensor, "k h w"]],
    options: PropagationOptions | None = None,
) -> Float[Tensor, "k h w"]:
    """Soft labels of a frame from those of other frames of the same video.

    Args:
        target: Features of the frame; its queries, with the kernel ``attention``.
        context: Features, or keys, of the other frames, same grid.

    Raises:
        InvalidValueError: If the grids or the counts differ.
    """
    if not context or len(context) != len(labels):
        raise InvalidValueError(f"As many labels as context frames are wanted, got {len(labels)} and {len(context)}.")
    options, grid = options or PropagationOptions(), target.shape[1:]
    if any(f.shape != target.shape for f in context) or any(m.shape[1:] != grid for m in labels):
        raise InvalidValueError("Frames and labels of a video must share one grid and one number of channels.")
    queries, keys = target.float(), [f.float() for f in context]
    if options.kernel == "features":
        queries, keys = F.normalize(queries, dim=0), [F.normalize(f, dim=0) for f in keys]
    else:
        queries = queries / math.sqrt(len(queries))
    h, w = grid
    result = labels[0].new_zeros(labels[0].shape[0], h, w, dtype=torch.float32)
    for top in range(0, h, TILE):
        for left in range(0, w, TILE):
            tile = (slice(top, min(top + TILE, h)), slice(left, min(left + TILE, w)))
            result[(slice(None), *tile)] = _tile(queries, keys, labels, tile, options)
    return result


def _tile(
    queries: Tensor,
    keys: Sequence[Tensor],
    labels: Sequence[Tensor],
    tile: tuple[slice, slice],
    options: PropagationOptions,
) -> Tensor:
    h, w = queries.shape[1:]
    (rows, columns), reach = tile, options.radius or max(h, w)
    window = (
        slice(max(rows.start - reach, 0), min(rows.stop + reach, h)),
        slice(max(columns.start - reach, 0), min(columns.stop + reach, w)),
    )
    asked = queries[:, rows, columns].flatten(1).T
    far = _far(tile, window, reach, queries.device)
    best = asked.new_empty(len(asked), 0)
    found = asked.new_empty(len(asked), 0, labels[0].shape[0])
    for key, label in zip(keys, labels, strict=True):
        near = asked @ key[:, window[0], window[1]].flatten(1)
        near.masked_fill_(far, -torch.inf)
        value, index = near.topk(min(options.topk, near.shape[1]), dim=1)
        taken = label[:, window[0], window[1]].flatten(1).float().T[index]
        value, taken = torch.cat([best, value], 1), torch.cat([found, taken], 1)
        best, order = value.topk(min(options.topk, value.shape[1]), dim=1)
        found = taken.gather(1, order[..., None].expand(-1, -1, taken.shape[2]))
    weights = torch.softmax(best / options.temperature, 1)
    mixed = (weights[..., None] * found).sum(1)
    return mixed.T.unflatten(1, (rows.stop - rows.start, columns.stop - columns.start))


def _far(tile: tuple[slice, slice], window: tuple[slice, slice], reach: int, device: torch.device) -> Tensor:
    """Which tokens of the window are out of a query's own reach, ``(queries, keys)``."""
    apart = []
    for inner, outer in zip(tile, window, strict=True):
        own = torch.arange(inner.start, inner.stop, device=device)
        other = torch.arange(outer.start, outer.stop, device=device)
        apart.append((own[:, None] - other[None]).abs() > reach)
    rows, columns = apart
    return (rows[:, None, :, None] | columns[None, :, None, :]).flatten(0, 1).flatten(1)


@neutral()
def propagate_video(
    features: Iterable[FeatureMap], first_mask: Int[Tensor, "height width"], options: PropagationOptions | None = None
) -> Iterator[Int[Tensor, "height width"]]:
    """Object numbers of every frame of a video after the first, in original pixels.

    Args:
        features: One map for each frame, the first frame's first.
        first_mask: Object numbers of the first frame, 0 is background.

    Raises:
        InvalidValueError: The mask is not of the first frame's size, or features are of different recipes.
    """
    options = options or PropagationOptions()
    objects = torch.unique(first_mask)
    first: tuple[Tensor, Tensor] | None = None
    opening: FeatureMap | None = None
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=options.last_frames)
    for feature in features:
        opening = feature if opening is None else opening
        check_same_recipe(opening, feature)
        tensor, key = _sides(feature, options)
        if first is None:
            width, height = feature.frame.original
            if first_mask.shape != (height, width):
                raise InvalidValueError(
                    f"The first frame has {width}×{height} pixels, its mask is of shape {tuple(first_mask.shape)}, not "
                    f"{(height, width)}."
                )
            on_grid = mask_on_grid(first_mask, feature.frame, (int(tensor.shape[1]), int(tensor.shape[2])))
            first = key, (on_grid[None] == objects[:, None, None]).float().to(tensor.device)
            continue
        context = [first, *recent]
        soft = propagate_labels(tensor, [f for f, _ in context], [m for _, m in context], options)
        recent.append((key, soft))
        yield objects[strongest_label(soft.cpu(), feature.frame)]


def _sides(feature: FeatureMap, options: PropagationOptions) -> tuple[Tensor, Tensor]:
    """What asks, and what is asked."""
    if options.kernel == "features":
        return feature.tensor, feature.tensor
    options.check_maps(feature.image, [*feature.activations])
    sides = {match[1]: feature[name] for name in feature.activations if (match := _SIDE.search(name))}
    return sides["q"], sides["k"]


def mask_on_grid(mask: Int[Tensor, "height width"], frame: Frame, grid: tuple[int, int]) -> Int[Tensor, "rows columns"]:
    """Object numbers of a picture on a (rows, columns) grid over the model's image."""
    if frame.padded:
        return frame.map_from_original(mask, grid, mode="nearest")
    return _nearest(mask, (grid[1], grid[0]))


def strongest_label(soft: Float[Tensor, "k h w"], frame: Frame) -> Int[Tensor, "height width"]:
    """Which of k soft maps wins at each original pixel (the first of equals)."""
    width, height = frame.model
    large = F.interpolate(soft[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    left, top, inner_w, inner_h = frame.content
    large = large[:, top : top + inner_h, left : left + inner_w]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    stretched = torch.where(high > low, (large - low) / (high - low).clamp(min=1e-12), large)
    return _nearest(stretched.argmax(0), frame.original)


def _nearest(numbers: Tensor, size: tuple[int, int]) -> Tensor:
    """By Pillow: where the centre of a pixel falls on an edge, it depends on how the coordinate was summed up."""
    picture = Image.fromarray(numbers.numpy().astype(np.int32))
    return torch.from_numpy(np.array(picture.resize(size, Image.Resampling.NEAREST))).to(numbers.dtype)
