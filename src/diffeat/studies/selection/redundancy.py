r"""How much two activations say the same: linear CKA with the unbiased estimator.

For samples (places of pictures) by features, with Gram matrices K, L whose diagonals are set to zero,

.. math:: H(K, L) = \frac{1}{n(n-3)}\Big[\operatorname{tr}(KL) + \frac{1^TK1\;1^TL1}{(n-1)(n-2)}
          - \frac{2}{n-2} 1^TKL1\Big],\qquad \mathrm{CKA} = \frac{H(K, L)}{\sqrt{H(K, K)\,H(L, L)}}

(Kornblith et al., ICML 2019; estimator of Song et al., JMLR 2012). The plain estimator calls unrelated features of many
channels alike; this one does not. Samples are an 8×8 grid over each picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def redundancy(samples: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, "a a"]:
    """CKA between all pairs of activations, clipped to [0, 1].

    Args:
        samples: For each activation, features of the same places in the same order (four at least).
    """
    n = len(samples[0])
    grams = torch.empty(len(samples), n * n)
    sums = torch.empty(len(samples), n, dtype=torch.float64)
    for i, features in enumerate(samples):
        centred = features.float() - features.float().mean(0)
        gram = centred @ centred.T
        gram = gram / gram.diagonal().mean().clamp(min=1e-30)  # scale is free, and keeps float32 exact enough
        gram.fill_diagonal_(0)
        grams[i] = gram.flatten()
        sums[i] = gram.double().sum(1)
    total = sums.sum(1)
    traces = (grams @ grams.T).double()
    hsic = traces + total[:, None] * total / ((n - 1) * (n - 2)) - 2 / (n - 2) * sums @ sums.T
    scale = hsic.diagonal().clamp(min=1e-12).sqrt()
    return (hsic / scale / scale[:, None]).clamp(0, 1).float()
