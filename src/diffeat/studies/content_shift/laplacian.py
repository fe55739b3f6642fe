r"""The quantitative score of "Suppress Content Shift" (Meng et al., NeurIPS 2024, Eqs. 1 and 2).

With :math:`L(F)_{ij}` the length over channels of the Laplacian (5-point kernel) of a feature at a cell,

.. math:: \mathrm{diff}(F) = \sum_{ij} | L(F_\mathrm{ref})_{ij} - L(F)_{ij} |, \quad
    \mathrm{score}(F) = \frac{\mathrm{diff}(F_\mathrm{anchor}) - \mathrm{diff}(F)}{\mathrm{diff}(F_\mathrm{anchor})}

where the reference is the clean feature (t = 0) and the anchor a feature with stronger shift. 1 is "an exact match".

It is no distance, and is offered to compare with the paper only: −F and any rotation of the channels of F_ref score 1,
a feature of zeros scores about 0.9 (more than the reference with mild noise), blur is rewarded, and scores of features
of other scale or timestep do not compare. The paper names no kernel, border or layer; zero padding is the default here.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import InvalidValueError

Border = Literal["zeros", "replicate", "reflect", "valid"]


def laplacian_length(feature: Float[Tensor, "c h w"], border: Border = "zeros") -> Float[Tensor, "h2 w2"]:
    """Length over channels of the 5-point Laplacian, in float64.

    Args:
        border: What lies outside: zeros, the edge again, the mirrored inside, or nothing (the interior only).
    """
    if border not in get_args(Border):
        raise InvalidValueError(f"The border is one of {', '.join(get_args(Border))}, got {border!r}.")
    x = feature.double()[None]
    if border == "zeros":
        x = F.pad(x, (1, 1, 1, 1))
    elif border != "valid":
        x = F.pad(x, (1, 1, 1, 1), mode=border)
    centre = x[..., 1:-1, 1:-1]
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return (around - 4 * centre)[0].norm(dim=0)


def laplacian_diff(
    feature: Float[Tensor, "c h w"], reference: Float[Tensor, "c h w"], border: Border = "zeros"
) -> float:
    """Eq. 1, 0 or more."""
    if feature.shape != reference.shape or not torch.isfinite(feature).all():
        shapes = f"{tuple(feature.shape)} and {tuple(reference.shape)}"
        raise InvalidValueError(f"Features {shapes} must be finite and of one shape.")
    return float((laplacian_length(reference, border) - laplacian_length(feature, border)).abs().sum())


def paper_laplacian(
    feature: Float[Tensor, "c h w"],
    reference: Float[Tensor, "c h w"],
    anchor: Float[Tensor, "c h w"],
    border: Border = "zeros",
) -> float:
    """Eq. 2, at most 1; see the module's docstring for what it cannot tell.

    Raises:
        InvalidValueError: If the shapes differ, or the anchor does not differ from the reference.
    """
    most = laplacian_diff(anchor, reference, border)
    if most == 0:
        raise InvalidValueError("The anchor's Laplacian equals the reference's; it must show more content shift.")
    return (most - laplacian_diff(feature, reference, border)) / most
