r"""Losses of dense predictions; pixels without truth do not count.

Lovász-softmax (Berman et al., CVPR 2018), over the classes that occur in a batch: with errors
:math:`m_i = 1 - p_i(c)` at pixels of class c and :math:`p_i(c)` elsewhere, sorted to fall,

.. math:: L = \frac{1}{|C|} \sum_{c \in C} \sum_i m_{(i)} (J_i - J_{i-1}), \qquad
          J_i = 1 - \frac{G - \sum_{j \le i} g_{(j)}}{G + \sum_{j \le i} (1 - g_{(j)})}

where g tells pixels of class c and G is how many they are: the piecewise linear extension of 1 − IoU.

Scale-invariant (Eigen et al., NeurIPS 2014, eq. 4, its root as of BTS, arXiv:1907.10326), with
:math:`d = \log \hat y - \log y`:

.. math:: L = \sqrt{\overline{d^2} - \lambda\,\bar d^2}

Angular: the mean of :math:`1 - \cos` between directions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

#: λ of the scale-invariant loss; BTS' value.
FOCUS = 0.85


def lovasz_softmax(
    scores: Float[Tensor, "b k h w"], labels: Int[Tensor, "b h w"], ignore: int = 255
) -> Float[Tensor, ""]:
    """The Lovász-softmax loss over a batch; 0 where no pixel has a label.

    Example:
        >>> scores = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])  # two classes, two pixels
        >>> labels = torch.tensor([[[0, 1]]])
        >>> lovasz_softmax(scores, labels) < 1e-6, lovasz_softmax(scores, 1 - labels) > 0.999
        (tensor(True), tensor(True))
    """
    known = labels != ignore
    truth = labels[known]
    shares = scores.movedim(1, -1)[known].float().softmax(1)
    losses = []
    for label in truth.unique().tolist():
        hit = (truth == label).to(shares.dtype)
        errors, order = (hit - shares[:, label]).abs().sort(descending=True)
        losses.append(errors @ _steps(hit[order]))
    return torch.stack(losses).mean() if losses else scores.sum() * 0


def _steps(hit: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Differences of the Jaccard loss as pixels come in one by one."""
    total = hit.sum()
    jaccard = 1 - (total - hit.cumsum(0)) / (total + (1 - hit).cumsum(0))
    return torch.cat([jaccard[:1], jaccard.diff()])


def scale_invariant_loss(
    depth: Float[Tensor, "b 1 h w"], truth: Float[Tensor, "b 1 h w"], focus: float = FOCUS
) -> Float[Tensor, ""]:
    """Of positive depths; pixels whose truth is NaN do not count.

    Args:
        focus: λ; 1 does not see a common factor at all.

    Example:
        >>> depth = torch.tensor([[[[1.0, 2.0]]]])
        >>> round(scale_invariant_loss(3 * depth, depth, focus=1.0).item(), 3)
        0.001
    """
    known = ~truth.isnan()
    if not known.any():
        return depth.sum() * 0
    d = depth[known].float().clamp(min=1e-6).log() - truth[known].clamp(min=1e-6).log()
    return (d.square().mean() - focus * d.mean().square()).clamp(min=0).add(1e-6).sqrt()


def angular_loss(directions: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Mean of 1 − cos; pixels whose truth is NaN do not count.

    Example:
        >>> up = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
        >>> angular_loss(up, up).item(), angular_loss(-up, up).item()
        (0.0, 2.0)
    """
    known = ~truth.isnan().any(1)
    if not known.any():
        return directions.sum() * 0
    one, other = directions.movedim(1, -1)[known].float(), truth.movedim(1, -1)[known]
    return (1 - F.cosine_similarity(one, other, dim=1)).mean()
