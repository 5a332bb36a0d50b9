"""Whether a classifier's confidence is its accuracy."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["ece"]


def ece(probabilities: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"], bins: int = 15) -> float:
    r"""The expected calibration error \(\sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|\).

    Samples are put by their highest probability into equal classes \((b/B, (b+1)/B]\).

    Raises:
        ValueError: no sample, bins below 1, or rows that are not probabilities.

    >>> ece(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1]))
    0.300...

    Source: Naeini, Cooper & Hauskrecht (2015); Guo et al. (2017), equation 3.
    """
    if bins < 1 or not len(labels):
        raise ValueError(f"bins={bins} and {len(labels)} samples: at least one of each is needed")
    sums = probabilities.double().sum(1)
    if bool((probabilities < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ValueError("each row must be probabilities that sum to 1; give logits.softmax(1), not logits")
    confidence, guess = probabilities.double().max(1)
    right = (guess == labels).double()
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, place, right - confidence)
    return float(gaps.abs().sum() / len(labels))
