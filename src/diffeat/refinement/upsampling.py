r"""From a coarse map to the pixels of its picture.

*bilinear* knows nothing of the picture. *guided* (He et al. 2013; He and Sun, arXiv:1505.00996) fits, in windows of
cells, each map as a linear function of the picture's grey value and takes coefficients, enlarged bilinearly, to the
pixels. *bilateral* (Kopf et al. 2007) gives a pixel p the mean of the cells q around it,

.. math:: \frac{\sum_q m_q\, e^{-|p - q|^2 / 2 s^2}\, e^{-|I_p - I_q|^2 / 2 r^2}}{\sum_q \dots} ,

distances in cells, colours I in 0…1 and those of cells the means of their pixels. *anyup* (Wimmer et al.,
arXiv:2510.12764; code and weights CC-BY-4.0, not part of this package) is a trained attention of pixels to the cells
around them; it is there once its users have fetched it into the folder of torch.hub. Gains over bilinear are small
where they were published (about one mIoU), so a result by another is to be told beside one by bilinear.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.geometry import Frame

#: Maps (k, h, w) over the model's image, the frame and the upright picture, to (k, height, width) of the picture.
Upsampler = Callable[[Tensor, Frame, Image.Image], Tensor]

_WINDOW, _REACH = 2, 2
_EPSILON = 1e-3
_SPACE, _COLOUR = 1.0, 0.1
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Pixels that AnyUp treats at a time.
_QUERIES = 4096


def bilinear(maps: Float[Tensor, "k h w"], frame: Frame, picture: Image.Image) -> Float[Tensor, "k H W"]:
    """Between the four nearest cells."""
    return frame.map_to_original(maps.float())


def guided(maps: Float[Tensor, "k h w"], frame: Frame, picture: Image.Image) -> Float[Tensor, "k H W"]:
    """Linear in the picture's grey value, in windows of 5 × 5 cells."""
    maps = maps.float()
    grey = _cells(frame, picture, maps).mean(0, keepdim=True)

    def mean(values: Tensor) -> Tensor:
        total = F.avg_pool2d(values[None], 2 * _WINDOW + 1, 1, _WINDOW, count_include_pad=False)
        return total[0]

    spread = mean(grey * grey) - mean(grey) ** 2
    slope = (mean(maps * grey) - mean(maps) * mean(grey)) / (spread + _EPSILON)
    offset = mean(maps) - slope * mean(grey)
    large = frame.map_to_original(mean(slope)) * _pixels(picture).mean(0), frame.map_to_original(mean(offset))
    return large[0] + large[1]


def bilateral(maps: Float[Tensor, "k h w"], frame: Frame, picture: Image.Image) -> Float[Tensor, "k H W"]:
    """The mean of 5 × 5 cells, those near and of like colour counting most."""
    maps, pixels = maps.float(), _pixels(picture)
    cells = _cells(frame, picture, maps)
    (height, width), (h, w) = pixels.shape[1:], maps.shape[1:]
    corners = torch.tensor([[0.0, 0.0], [width - 1.0, height - 1.0]])
    (x0, y0), (x1, y1) = frame.points_to_grid(corners, (h, w)).tolist()
    x, y = torch.linspace(x0, x1, width), torch.linspace(y0, y1, height)
    total, weights = torch.zeros(len(maps), height, width), torch.zeros(height, width)
    for down in range(-_REACH, _REACH + 1):
        for right in range(-_REACH, _REACH + 1):
            row, column = y.round().long() + down, x.round().long() + right
            apart = ((y - row) ** 2)[:, None] + ((x - column) ** 2)[None]
            inside = ((row >= 0) & (row < h))[:, None] & ((column >= 0) & (column < w))[None]
            at = row.clamp(0, h - 1)[:, None], column.clamp(0, w - 1)[None]
            unlike = ((pixels - cells[:, at[0], at[1]]) ** 2).sum(0)
            weight = torch.exp(-apart / (2 * _SPACE**2) - unlike / (2 * _COLOUR**2)) * inside + 1e-12 * inside
            total += weight * maps[:, at[0], at[1]]
            weights += weight
    return total / weights


def anyup(maps: Float[Tensor, "k h w"], frame: Frame, picture: Image.Image) -> Float[Tensor, "k H W"]:
    """By AnyUp, at the size of the model's image, from there bilinearly.

    Raises:
        InvalidValueError: Its code or weights are not in the folder of torch.hub; tells how they come there.
    """
    mean, std = (torch.tensor(v)[:, None, None] for v in _IMAGENET)
    image = (((frame.pixels(picture) + 1) / 2 - mean) / std)[None]
    with torch.no_grad():
        large = _anyup(torch.hub.get_dir())(image, maps.float()[None], q_chunk_size=_QUERIES)[0]
    return frame.map_to_original(large)


@lru_cache(1)
def _anyup(hub: str) -> torch.nn.Module:
    code, weights = Path(hub, "wimmerth_anyup_main"), Path(hub, "checkpoints", "anyup_paper.pth")
    if not (code.is_dir() and weights.is_file()):
        raise InvalidValueError(
            f"The upsampler 'anyup' is not in {hub}. Fetch its code and weights (CC-BY-4.0, they are not part of this "
            "package) once with: python -c \"import torch; torch.hub.load('wimmerth/anyup', 'anyup')\""
        )
    network = torch.hub.load(str(code), "anyup", source="local", pretrained=False)
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


#: By name. An upsampler of a package or of hub weights is a line here.
UPSAMPLERS: dict[str, Upsampler] = {"bilinear": bilinear, "guided": guided, "bilateral": bilateral, "anyup": anyup}


def upsampler(name: str) -> Upsampler:
    """The upsampler of a name.

    Raises:
        UnknownNameError: There is none.
        InvalidValueError: Its weights are not there.
    """
    if name not in UPSAMPLERS:
        raise UnknownNameError(f"There is no upsampler {name!r}. {did_you_mean(name, UPSAMPLERS)}".rstrip())
    if UPSAMPLERS[name] is anyup:
        _anyup(torch.hub.get_dir())  # refused before anything else is done
    return UPSAMPLERS[name]


def _pixels(picture: Image.Image) -> Float[Tensor, "3 H W"]:
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)


def _cells(frame: Frame, picture: Image.Image, maps: Tensor) -> Float[Tensor, "3 h w"]:
    """The picture's colours, 0…1, on the grid of the maps."""
    return F.adaptive_avg_pool2d((frame.pixels(picture) + 1) / 2, (maps.shape[1], maps.shape[2]))
