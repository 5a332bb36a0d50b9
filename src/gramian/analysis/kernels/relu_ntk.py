r"""The neural tangent kernel of infinitely wide ReLU networks, for inputs of any length."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.random import arc_cosine

__all__ = ["kernel_ridge", "relu_ntk"]


def relu_ntk(
    x: Float[Tensor, "left features"], y: Float[Tensor, "right features"], depth: int = 1
) -> Float[Tensor, "left right"]:
    r"""The kernel by which a wide network of `depth` hidden ReLU layers without biases learns.

    From \(S = K = \langle x, y\rangle\), every layer takes, with ρ the cosine \(S/(\|x\|\|y\|)\),

    \[ S \leftarrow 2\|x\|\|y\|\,\mathbb E[\mathrm{relu}(g)\mathrm{relu}(h)], \qquad
       K \leftarrow S + 2\,\mathbb E[1_{g>0}1_{h>0}]\,K, \]

    g and h standard normals of correlation ρ; lengths are kept. It is homogeneous of degree one in x and in y. To give
    the network biases, append a constant to x and y (`gramian.linalg.random.arc_cosine.with_constant`).

    Raises:
        ValueError: a depth below 1, or numbers that are not finite.

    Source: Jacot, Gabriel and Hongler, "Neural Tangent Kernel" (2018); Cho and Saul (2009) for the expectations.

    >>> relu_ntk(torch.eye(2), torch.eye(2)).round(decimals=4)
    tensor([[2.0000, 0.3183],
            [0.3183, 2.0000]])
    """
    if depth < 1:
        raise ValueError(f"depth={depth}: at least one hidden layer is needed")
    if not (bool(torch.isfinite(x).all()) and bool(torch.isfinite(y).all())):
        raise ValueError("the inputs hold NaN or infinite numbers")
    lengths = x.norm(dim=1)[:, None] * y.norm(dim=1)
    size = lengths.clamp(min=torch.finfo(x.dtype).tiny)
    product = x @ y.mT
    kernel = product
    for _ in range(depth):
        cosine = product / size
        product = 2 * lengths * arc_cosine.relu_product(cosine)
        kernel = product + 2 * arc_cosine.step_product(cosine) * kernel
    return kernel


def kernel_ridge(
    kernel: Float[Tensor, "samples samples"], targets: Float[Tensor, " samples"], strength: float | int
) -> Float[Tensor, " samples"]:
    r"""The weights \((K + \lambda\,\bar k\, n\,I)^{-1} y\) of ridge regression, \(\bar k\) the mean of K's diagonal.

    So scaled, λ means the same for every scale of the inputs and number of samples: it is the ridge of the mean squared
    error over the samples, for a kernel with a mean diagonal of 1.

    Raises:
        ValueError: a strength that is not positive and finite.
    """
    if not 0 < strength < float("inf"):
        raise ValueError(f"strength={strength} must be positive and finite")
    ridge = strength * len(kernel) * kernel.diagonal().mean()
    return torch.linalg.solve(kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype), targets)
