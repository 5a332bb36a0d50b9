r"""The Fréchet distance between two sets of samples, each taken as a Gaussian."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gramian.linalg.manifold import spd

__all__ = ["frechet_distance"]


def frechet_distance(a: Float[Tensor, "samples_a features"], b: Float[Tensor, "samples_b features"]) -> float:
    r"""\(\|\mu_a - \mu_b\|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2(\Sigma_a\Sigma_b)^{1/2})\), in float64.

    It is the squared 2-Wasserstein distance of two Gaussians with the samples' means and covariances. With features of
    an Inception network it is the FID; figures of different features, or of different numbers of samples, do not
    compare: the estimate falls as the samples grow more.

    Raises:
        ValueError: no more samples than features (a covariance would be singular), or values that are not finite.

    Source: Dowson & Landau (1982); Heusel et al. (2017), section 3, for its use on features.

    >>> import torch
    >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    >>> round(frechet_distance(x, x + 2.0), 4)
    12.0
    """
    for name, samples in (("a", a), ("b", b)):
        if samples.shape[0] <= samples.shape[1]:
            raise ValueError(
                f"{name} has {samples.shape[0]} samples of {samples.shape[1]} features: more samples than features are "
                "needed; reduce the features first"
            )
        if not bool(samples.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite")
    a, b = a.double(), b.double()
    shape = spd.BuresWasserstein().dist(a.T.cov(), b.T.cov()).square()
    return float((a.mean(0) - b.mean(0)).square().sum() + shape)
