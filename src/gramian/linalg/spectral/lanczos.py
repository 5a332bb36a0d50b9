r"""Spectra and traces of a symmetric matrix that is known by its products only.

Everything takes ``matvec``, a function \(v \mapsto A v\) on vectors of `size` entries, with \(A\) symmetric. Vectors
are drawn in `dtype` on `device`; the small tridiagonal problems are solved in float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Lanczos", "NotConverged", "Quadrature", "TraceEstimate", "extreme_eigenvalues", "hutch_plus_plus", "hutchinson",
    "lanczos", "lanczos_quadrature",
]  # fmt: skip

Matvec = Callable[[Tensor], Tensor]


class NotConverged(UserWarning):
    """Lanczos ended before its extreme eigenvalues reached the tolerance; the residual is in the message."""


@dataclass(frozen=True)
class Lanczos:
    r"""The Krylov factorization \(A V = V T + \beta_k v_{k+1} e_k^T\).

    Attributes:
        diagonal: α, the diagonal of the tridiagonal T.
        off_diagonal: β between them.
        basis: V, orthonormal columns.
        rest: β_k, the norm of what the next vector would be; 0 if the Krylov space is exhausted.
    """

    diagonal: Float[Tensor, " steps"]
    off_diagonal: Float[Tensor, " between"]
    basis: Float[Tensor, "size steps"]
    rest: float

    def ritz(self) -> tuple[Float[Tensor, " steps"], Float[Tensor, "steps steps"]]:
        """Eigenvalues of T, ascending, and its eigenvectors as columns (float64)."""
        tri = torch.diag(self.diagonal.double())
        if self.off_diagonal.numel():
            tri = tri + torch.diag(self.off_diagonal.double(), 1) + torch.diag(self.off_diagonal.double(), -1)
        return torch.linalg.eigh(tri)

    def residuals(self) -> Float[Tensor, " steps"]:
        """‖A y − θ y‖ of every Ritz pair: |β_k| times the last entry of T's eigenvector."""
        return self.rest * self.ritz()[1][-1].abs()


def _start(size: int, generator: torch.Generator | None, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    drawn = torch.randn(size, generator=generator, dtype=dtype, device=generator.device if generator else device)
    return drawn.to(device)


def _check(size: int, count: int, what: str) -> None:
    if size < 1:
        raise ValueError(f"size={size}: the matrix needs at least one row")
    if count < 1:
        raise ValueError(f"{what}={count} must be at least 1")


def _product(matvec: Matvec, v: Tensor) -> Tensor:
    out = matvec(v)
    if out.shape != v.shape:
        raise ValueError(f"matvec returned shape {tuple(out.shape)} for a vector of shape {tuple(v.shape)}")
    if not torch.isfinite(out).all():
        raise ValueError("matvec returned NaN or infinity: the matrix is not finite at this point")
    return out.detach()


def lanczos(
    matvec: Matvec,
    size: int,
    steps: int,
    *,
    start: Float[Tensor, " size"] | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Lanczos:
    """Lanczos with full reorthogonalization (twice), so that no eigenvalue appears as a ghost.

    Args:
        matvec: the product with the matrix.
        size: its number of rows.
        steps: Krylov dimension, cut at `size`; fewer come back where the Krylov space is exhausted.
        start: first vector, of any length but zero; a standard normal one by default.

    Raises:
        ValueError: a size or number of steps below 1, a zero start, or products that are not finite.

    Source: Golub and Van Loan, Matrix Computations, section 10.1.

    >>> A = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    >>> lanczos(lambda v: A @ v, 3, 3, generator=torch.Generator().manual_seed(0)).ritz()[0].round(decimals=6)
    tensor([1., 2., 5.], dtype=torch.float64)
    """
    _check(size, steps, "steps")
    v = _start(size, generator, dtype, device) if start is None else start.detach().clone()
    length = torch.linalg.vector_norm(v)
    if not bool(length > 0) or not bool(torch.isfinite(length)):
        raise ValueError("the start vector is zero or not finite; give another one")
    v = v / length
    steps = min(steps, size)
    basis = v.new_empty(steps, size)
    diagonal: list[Tensor] = []
    off: list[Tensor] = []
    scale, rest = 0.0, 0.0
    for k in range(steps):
        basis[k] = v
        w = _product(matvec, v)
        alpha = torch.dot(w, v)
        diagonal.append(alpha)
        seen = basis[: k + 1]
        for _ in range(2):
            w = w - seen.mT @ (seen @ w)
        beta = torch.linalg.vector_norm(w)
        rest = float(beta)
        scale = max(scale, abs(float(alpha)), rest)
        if rest <= 4 * torch.finfo(v.dtype).eps * scale * size**0.5 or k + 1 == size:
            rest = 0.0
            break
        if k + 1 < steps:
            off.append(beta)
        v = w / beta
    count = len(diagonal)
    between = torch.stack(off[: count - 1]) if count > 1 else v.new_empty(0)
    return Lanczos(torch.stack(diagonal), between, basis[:count].mT, rest)


def extreme_eigenvalues(
    matvec: Matvec,
    size: int,
    *,
    steps: int = 64,
    tolerance: float = 1e-4,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """The least and the largest eigenvalue, each to within its residual.

    Warns `NotConverged` when, after `steps` products, a residual is above `tolerance` times the larger of the two
    in absolute value.
    """
    found = lanczos(matvec, size, steps, generator=generator, dtype=dtype, device=device)
    values, residuals = found.ritz()[0], found.residuals()
    least, largest = float(values[0]), float(values[-1])
    worst = max(float(residuals[0]), float(residuals[-1]))
    if worst > tolerance * max(abs(least), abs(largest)):
        warnings.warn(
            f"after {len(values)} products the extreme eigenvalues [{least:.4g}, {largest:.4g}] have residual "
            f"{worst:.2g}, above tolerance={tolerance:g}; give more steps=",
            NotConverged,
            stacklevel=2,
        )
    return least, largest


@dataclass(frozen=True)
class Quadrature:
    r"""A spectral density as weighted points: \(\frac1n \operatorname{tr} f(A) \approx \sum_i w_i f(\theta_i)\)."""

    nodes: Float[Tensor, " points"]
    weights: Float[Tensor, " points"]
    size: int

    def trace(self, function: Callable[[Tensor], Tensor]) -> float:
        """Tr f(A), such as ``trace(torch.square)`` for the squared Frobenius norm."""
        return self.size * float((self.weights * function(self.nodes)).sum())

    def density(self, grid: Float[Tensor, " values"], width: float) -> Float[Tensor, " values"]:
        """The density on `grid`, every node a Gaussian of standard deviation `width`."""
        if not width > 0:
            raise ValueError(f"width={width} must be positive")
        z = (grid.double()[:, None] - self.nodes) / width
        return (torch.exp(-0.5 * z.square()) @ self.weights) / (width * (2 * torch.pi) ** 0.5)


def lanczos_quadrature(
    matvec: Matvec,
    size: int,
    *,
    steps: int = 64,
    probes: int = 8,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Quadrature:
    r"""Stochastic Lanczos quadrature: nodes θ of T, weights the squared first entries of its eigenvectors.

    Each probe is a random sign vector \(z\), for which Gauss quadrature gives \(z^T f(A) z / n\), exact for polynomials
    of degree \(2\,\text{steps} - 1\); the mean over probes is unbiased for \(\operatorname{tr} f(A)/n\).

    Source: Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature (2017), section 3.
    """
    _check(size, probes, "probes")
    nodes, weights = [], []
    for _ in range(probes):
        signs = torch.sign(_start(size, generator, dtype, device))
        values, vectors = lanczos(matvec, size, steps, start=signs).ritz()
        nodes.append(values)
        weights.append(vectors[0].square() / probes)
    return Quadrature(torch.cat(nodes), torch.cat(weights), size)


@dataclass(frozen=True)
class TraceEstimate:
    """A trace and the standard error of its estimate (0 where nothing was left to estimate)."""

    value: float
    standard_error: float


def hutchinson(
    matvec: Matvec,
    size: int,
    probes: int = 32,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> TraceEstimate:
    r"""The trace as the mean of \(z^T A z\) over random sign vectors.

    Its variance is \(2\sum_{i \ne j} A_{ij}^2\) over the number of probes.

    Source: Hutchinson, A stochastic estimator of the trace of the influence matrix (1989).
    """
    _check(size, probes, "probes")
    found = []
    for _ in range(probes):
        z = torch.sign(_start(size, generator, dtype, device))
        found.append(torch.dot(z, _product(matvec, z)).double())
    return _estimate(torch.stack(found))


def _estimate(found: Tensor, offset: float = 0.0) -> TraceEstimate:
    error = float(found.std()) / len(found) ** 0.5 if len(found) > 1 else float("inf")
    return TraceEstimate(offset + float(found.mean()), error)


def hutch_plus_plus(
    matvec: Matvec,
    size: int,
    products: int = 48,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> TraceEstimate:
    r"""The trace, exactly on a sketched range and by sign vectors on what is left.

    A third of the `products` sketches the range, \(Q = \operatorname{orth}(A S)\); the trace of \(Q^T A Q\) takes
    another third, and Hutchinson's mean of \((I - QQ^T) A (I - QQ^T)\) the last. A matrix of rank at most products/3
    comes out exactly.

    Raises:
        ValueError: fewer than three products, or products that are not finite.

    Source: Meyer, Musco, Musco and Woodruff, Hutch++: Optimal Stochastic Trace Estimation (2021), algorithm 1.

    >>> A = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    >>> round(hutch_plus_plus(lambda v: A @ v, 4, 9, generator=torch.Generator().manual_seed(1)).value, 9)
    4.0
    """
    if products < 3:
        raise ValueError(f"products={products}: Hutch++ needs at least 3, one for each of its parts")
    _check(size, products, "products")
    third = min(products // 3, size)
    sketch = torch.stack([
        _product(matvec, torch.sign(_start(size, generator, dtype, device))) for _ in range(third)
    ], dim=1)  # fmt: skip
    q = torch.linalg.qr(sketch).Q
    # columns beyond the rank are directions of rounding, harmless: any orthonormal Q is unbiased
    image = torch.stack([_product(matvec, q[:, i].contiguous()) for i in range(q.shape[1])], dim=1)
    exact = float((q * image).sum())
    if q.shape[1] >= size:
        return TraceEstimate(exact, 0.0)
    found = []
    for _ in range(products - 2 * third):
        z = torch.sign(_start(size, generator, dtype, device))
        z = z - q @ (q.mT @ z)
        found.append(torch.dot(z, _product(matvec, z)).double())
    return _estimate(torch.stack(found), exact)
