"""Orthogonal matrices: Householder products, Stiefel manifold, nearest orthogonal matrix, Haar samples."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "apply_householder",
    "haar",
    "householder_product",
    "householder_vectors",
    "nearest_orthogonal",
    "procrustes",
    "stiefel_retract",
    "stiefel_tangent",
]


def _compact(vectors: Tensor) -> Tensor:
    """T⁻¹ of the compact WY form I − V T Vᵀ: half the squared norms on the diagonal, Gram entries above it."""
    gram = vectors.mT @ vectors
    norms = gram.diagonal(dim1=-2, dim2=-1)
    if not bool(torch.isfinite(norms).all()):
        raise ValueError("the reflectors hold NaN or infinity")
    if norms.numel() and float(norms.detach().min()) == 0:
        raise ValueError("a reflector is zero; it defines no hyperplane. Drop it, or start from random vectors")
    return torch.triu(gram, diagonal=1) + torch.diag_embed(norms / 2)


def apply_householder(
    vectors: Float[Tensor, "*#batch n k"], x: Float[Tensor, "*#batch n m"], transpose: bool = False
) -> Float[Tensor, "*#batch n m"]:
    """H₁ H₂ ⋯ H_k x with Hᵢ = I − 2 vᵢvᵢᵀ/|vᵢ|², without forming the product.

    The compact WY form I − V T Vᵀ replaces k rank-one updates by two matrix products and a triangular
    solve (Joffrain et al., 2006: T⁻¹ is the strict upper part of VᵀV plus half its diagonal).

    Args:
        vectors: the reflectors vᵢ as columns, of any norm but zero.
        x: columns to transform.
        transpose: apply the inverse, H_k ⋯ H₁.

    Raises:
        ValueError: a zero reflector, NaN or infinity.
    """
    inverse = _compact(vectors)
    inner = vectors.mT @ x
    if transpose:
        solved = torch.linalg.solve_triangular(inverse.mT, inner, upper=False)
    else:
        solved = torch.linalg.solve_triangular(inverse, inner, upper=True)
    return x - vectors @ solved


def householder_product(
    vectors: Float[Tensor, "*batch n k"], columns: int | None = None
) -> Float[Tensor, "*batch n c"]:
    """The first `columns` columns (all n by default) of the orthogonal matrix H₁ H₂ ⋯ H_k.

    Raises:
        ValueError: as `apply_householder`.

    >>> householder_product(torch.tensor([[1.0], [0.0]]))
    tensor([[-1.,  0.],
            [ 0.,  1.]])
    """
    n = vectors.shape[-2]
    identity = torch.eye(n, columns or n, dtype=vectors.dtype, device=vectors.device)
    return apply_householder(vectors, identity.expand(*vectors.shape[:-2], *identity.shape))


def householder_vectors(frame: Float[Tensor, "n k"]) -> tuple[Float[Tensor, "n k"], Float[Tensor, " k"]]:
    """Reflectors V and signs s with frame = householder_product(V, columns=k) · diag(s), for orthonormal columns.

    LAPACK's geqrf packs R above the diagonal of what it returns and leaves the reflectors' leading ones
    implicit: only the unit lower part are reflectors. R of an orthonormal matrix is diagonal with entries
    ±1, the signs.

    Raises:
        ValueError: more columns than rows, or columns that are not orthonormal.
    """
    n, k = frame.shape
    if k > n:
        raise ValueError(f"{k} columns of length {n} cannot be orthonormal")
    gram = frame.mT @ frame
    error = float((gram - torch.eye(k, dtype=frame.dtype, device=frame.device)).abs().amax()) if k else 0.0
    if not error <= torch.finfo(frame.dtype).eps ** 0.5:
        raise ValueError(f"the columns are not orthonormal (largest error {error:.2g}); use nearest_orthogonal first")
    packed, tau = torch.geqrf(frame)
    vectors = torch.tril(packed, diagonal=-1) + torch.eye(n, k, dtype=frame.dtype, device=frame.device)
    signs = packed.diagonal().sign()
    # tau = 0 marks a column that needed no reflection; reflecting along its own axis flips the sign instead
    signs = torch.where(tau == 0, -signs, signs)
    idle = torch.eye(n, k, dtype=frame.dtype, device=frame.device)
    return torch.where(tau == 0, idle, vectors), signs


def haar(
    n: int,
    generator: torch.Generator | None = None,
    *,
    columns: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, "n c"]:
    """A uniformly distributed orthogonal matrix, or its first `columns` columns.

    The Q of a Gaussian matrix's QR, with columns signed so that R has a positive diagonal; without the
    signs the distribution is not uniform (Mezzadri, 2007).
    """
    noise = torch.randn(n, columns or n, generator=generator, dtype=dtype, device=device)
    q, r = torch.linalg.qr(noise)
    return q * r.diagonal().sign()


def nearest_orthogonal(matrix: Float[Tensor, "*batch n k"]) -> Float[Tensor, "*batch n k"]:
    """The matrix of orthonormal columns (rows, if k > n) nearest in Frobenius norm: U Vᵀ of the SVD.

    Raises:
        ValueError: NaN, infinity, or a matrix of deficient rank, which has no unique nearest one.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("the matrix holds NaN or infinity")
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    if bool((s[..., -1] <= s[..., 0] * torch.finfo(s.dtype).eps * max(matrix.shape[-2:])).any()):
        raise ValueError("the matrix is rank-deficient: its nearest orthogonal matrix is not unique")
    return u @ vh


def procrustes(
    source: Float[Tensor, "samples d"], target: Float[Tensor, "samples d"], proper: bool = False
) -> Float[Tensor, "d d"]:
    """The orthogonal R that minimizes ‖source R − target‖ (Schönemann, 1966); with `proper`, a rotation (det 1)."""
    u, _, vh = torch.linalg.svd(source.mT @ target)
    if proper:
        last = torch.ones(u.shape[-1], dtype=u.dtype, device=u.device)
        last[-1] = torch.linalg.det(u @ vh).sign()
        u = u * last
    return u @ vh


def stiefel_tangent(point: Float[Tensor, "*batch n k"], V: Float[Tensor, "*batch n k"]) -> Float[Tensor, "*batch n k"]:
    """The orthogonal projection of V on the tangent space of the Stiefel manifold at X: V − X sym(XᵀV)."""
    inner = point.mT @ V
    return V - point @ (inner + inner.mT) / 2


def stiefel_retract(point: Float[Tensor, "*batch n k"], V: Float[Tensor, "*batch n k"]) -> Float[Tensor, "*batch n k"]:
    """The QR retraction: the Q of X + V, with R's diagonal positive."""
    q, r = torch.linalg.qr(point + V)
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
