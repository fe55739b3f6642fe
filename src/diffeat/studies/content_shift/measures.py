r"""How far something is from where it should be: pictures from the input, features from their clean counterparts.

All measures here are *shifts*: 0 is no shift and more is worse, so that techniques compare the same way in all of them.

Pictures ``(3, h, w)`` in [-1, 1]:

* ``pixel``: root mean square difference (of values in [0, 1]);
* ``ssim``: 1 − SSIM (Wang et al. 2004; Gaussian window of σ = 1.5, grey);
* ``edges``: 1 − F₁ of edges (Canny on the grey picture, one pixel of tolerance);
* ``dino:MODEL``: 1 − mean cosine between patch tokens of a vision transformer, e.g. ``dino:facebook/dinov2-base``;
* ``lpips``: LPIPS (Zhang et al. 2018) by the ``lpips`` package, where it is installed with its weights.

Features ``(c, h, w)``:

* ``cosine``: 1 − mean cosine similarity of cells;
* ``cka``: 1 − linear centred kernel alignment of cells (Kornblith et al. 2019), blind to rotations of channels;
* ``self_match``: how far the nearest neighbour of each cell among the cells of the clean feature of the same picture
  lies from the cell, mean distance as a share of the diagonal; needs no annotation and is scale-free;
* ``laplacian``: Eq. 1 of "Suppress Content Shift". The gain by it is the paper's score, Eq. 2, with the base as anchor,
  sums over pictures in place of single ones; :data:`LAPLACIAN_DEFECTS` says what it cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import InvalidValueError, ModelError, UnknownNameError, did_you_mean
from diffeat.geometry import to_image
from diffeat.studies.content_shift.laplacian import laplacian_diff

Picture = Float[Tensor, "3 h w"]
Feature = Float[Tensor, "c h w"]


def pixel_shift(found: Picture, true: Picture) -> float:
    _check(found, true)
    return float(((found.float() - true.float()) / 2).square().mean().sqrt())


def ssim_shift(found: Picture, true: Picture) -> float:
    from skimage.metrics import structural_similarity

    _check(found, true)
    one, two = _grey(found), _grey(true)
    score = structural_similarity(
        one,
        two,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        win_size=None if min(one.shape) >= 11 else 3,
    )
    return 1 - float(np.asarray(score))


def edge_shift(found: Picture, true: Picture) -> float:
    """1 − F₁ between the edges of both pictures; 0 where neither has any."""
    from scipy.ndimage import maximum_filter
    from skimage.feature import canny

    _check(found, true)
    one, two = (canny(_grey(x), sigma=1.0, low_threshold=0.1, high_threshold=0.2) for x in (found, true))
    if not one.any() and not two.any():
        return 0.0
    hit_one = (one & maximum_filter(two, 3)).sum() / max(one.sum(), 1)
    hit_two = (two & maximum_filter(one, 3)).sum() / max(two.sum(), 1)
    return 1 - float(2 * hit_one * hit_two / max(hit_one + hit_two, 1e-12))


def cosine_shift(found: Feature, clean: Feature) -> float:
    _check(found, clean)
    return 1 - float(F.cosine_similarity(found.double(), clean.double(), dim=0).mean())


def cka_shift(found: Feature, clean: Feature) -> float:
    """1 − linear CKA over cells; 1 where one of them is constant."""
    _check(found, clean)
    one, two = (x.double().flatten(1).T for x in (found, clean))
    one, two = one - one.mean(0), two - two.mean(0)
    if one.shape[1] > one.shape[0]:  # by the smaller side: the same numbers
        g, k = one @ one.T, two @ two.T
        cross, own = (g * k).sum(), g.norm() * k.norm()
    else:
        cross, own = (one.T @ two).square().sum(), (one.T @ one).norm() * (two.T @ two).norm()
    return 1 - float(cross / own) if own > 0 else 1.0


def self_match_shift(found: Feature, clean: Feature) -> float:
    """Mean distance between each cell and its nearest neighbour (cosine) among the clean cells, over the diagonal.

    Of more than 4096 cells some are taken, evenly.
    """
    _check(found, clean)
    h, w = found.shape[-2:]
    queries, keys = (F.normalize(x.float().flatten(1), dim=0).T for x in (found, clean))
    at = torch.arange(h * w)[:: -(-h * w // 4096)]
    nearest = (queries[at] @ keys.T).argmax(1)
    dy, dx = at.to(nearest) // w - nearest // w, at.to(nearest) % w - nearest % w
    return float((dy.double().square() + dx.double().square()).sqrt().mean()) / float(np.hypot(h - 1, w - 1) or 1)


Measure = Callable[[Tensor, Tensor], float]
PICTURE_MEASURES: dict[str, Measure] = {"pixel": pixel_shift, "ssim": ssim_shift, "edges": edge_shift}
FEATURE_MEASURES: dict[str, Measure] = {
    "cosine": cosine_shift,
    "cka": cka_shift,
    "self-match": self_match_shift,
    "laplacian": laplacian_diff,
}
LAPLACIAN_DEFECTS = (
    "The paper's score cannot tell a feature from its negative or from one with rotated channels, rates zeros at about "
    "0.9, rewards blur, and does not compare across layers or timesteps"
)


def picture_measure(name: str) -> Measure:
    """A measure of pictures by name.

    Raises:
        UnknownNameError: If there is none of this name.
        ModelError: If its weights, or the package that reads them, are not there.
    """
    kind, _, model = name.partition(":")
    if kind == "dino" and model:
        return _dino(model)
    if kind == "lpips":
        return _lpips(model or "alex")
    return _named(name, PICTURE_MEASURES, " By weights: use 'dino:MODEL' or 'lpips'.")


def feature_measure(name: str) -> Measure:
    return _named(name, FEATURE_MEASURES)


def _named(name: str, measures: dict[str, Measure], more: str = "") -> Measure:
    if name not in measures:
        raise UnknownNameError(f"No measure {name!r}. {did_you_mean(name, measures)}{more}")
    return measures[name]


def _dino(model: str) -> Measure:
    from diffeat.extraction.vision import VisionExtractor

    extractor = VisionExtractor.from_pretrained(model)

    def measure(found: Tensor, true: Tensor) -> float:
        one, two = (f.tensor.double() for f in extractor.stream([to_image(found), to_image(true)]))
        return 1 - float(F.cosine_similarity(one, two, dim=0).mean())

    return measure


def _lpips(network: str) -> Measure:
    try:
        import lpips  # type: ignore[import-not-found]

        distance = lpips.LPIPS(net=network, verbose=False).eval()
    except Exception as error:  # a missing package, torchvision or download
        raise ModelError(
            f"LPIPS needs the package lpips with its weights ({type(error).__name__}: {error}). Leave the measure out, "
            "or use 'dino:MODEL'."
        ) from None

    @torch.no_grad()
    def measure(found: Tensor, true: Tensor) -> float:
        return float(distance(found.float()[None].cpu(), true.float()[None].cpu()))

    return measure


def _grey(picture: Tensor) -> np.ndarray:
    weights = picture.new_tensor([0.2125, 0.7154, 0.0721]).double()
    return ((picture.double() + 1) / 2 * weights[:, None, None]).sum(0).clamp(0, 1).cpu().numpy()


def _check(one: Tensor, two: Tensor) -> None:
    if one.shape != two.shape or one.ndim != 3:
        raise InvalidValueError(
            f"Measures compare two tensors (c, h, w), got {tuple(one.shape)} and {tuple(two.shape)}."
        )
    if not (torch.isfinite(one).all() and torch.isfinite(two).all()):
        raise InvalidValueError("Measures need finite numbers; the features or pictures hold NaN or infinity.")
