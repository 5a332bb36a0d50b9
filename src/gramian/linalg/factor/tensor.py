r"""Tucker form of tensors: a small core, multiplied along each axis by a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Tucker", "hosvd", "mode_product", "multilinear_rank", "tucker_size", "tucker_to_tensor", "unfold"]


class Tucker(NamedTuple):
    r"""A tensor \(G \times_1 A_1 \times_2 A_2 \cdots \times_N A_N\).

    Attributes:
        core: G, of shape (r₁, …, r_N).
        factors: A_i, of shape (d_i, r_i).
    """

    core: Tensor
    factors: tuple[Tensor, ...]

    def full(self) -> Tensor:
        """The tensor itself, of shape (d₁, …, d_N)."""
        return tucker_to_tensor(self.core, self.factors)


def unfold(tensor: Float[Tensor, "..."], mode: int) -> Float[Tensor, "side rest"]:
    """The matrix whose rows run over one axis and whose columns run over all others, in their order.

    Raises:
        ValueError: a tensor without that axis.
    """
    return tensor.movedim(_axis(tensor, mode), 0).reshape(tensor.shape[mode], -1)


def mode_product(tensor: Float[Tensor, "..."], matrix: Float[Tensor, "rows side"], mode: int) -> Float[Tensor, "..."]:
    r"""\((T \times_n A)_{\ldots i \ldots} = \sum_j A_{ij} T_{\ldots j \ldots}\): a matrix applied along one axis.

    Raises:
        ValueError: an axis that is not there, or whose length is not the number of columns.

    >>> mode_product(torch.ones(2, 3), torch.tensor([[1.0, 1.0, 1.0]]), 1)
    tensor([[3.],
            [3.]])
    """
    axis = _axis(tensor, mode)
    if matrix.shape[1] != tensor.shape[axis]:
        raise ValueError(f"a matrix of {matrix.shape[1]} columns along axis {mode}, of length {tensor.shape[axis]}")
    return torch.tensordot(matrix, tensor, dims=([1], [axis])).movedim(0, axis)


def tucker_to_tensor(core: Float[Tensor, "..."], factors: Sequence[Tensor]) -> Float[Tensor, "..."]:
    r"""\(G \times_1 A_1 \times_2 A_2 \cdots \times_N A_N\).

    Args:
        core: G, of N axes.
        factors: N matrices A_i of shape (d_i, r_i).

    Raises:
        ValueError: another number of factors than the core has axes, or a factor that does not fit its axis.
    """
    if len(factors) != core.ndim:
        raise ValueError(f"{len(factors)} factors for a core of {core.ndim} axes: one a axis is needed")
    # the axes that grow least go first: the intermediate tensors stay small
    for mode in sorted(range(core.ndim), key=lambda n: factors[n].shape[0] / max(1, factors[n].shape[1])):
        core = mode_product(core, factors[mode], mode)
    return core


def hosvd(tensor: Float[Tensor, "..."], ranks: Sequence[int]) -> Tucker:
    r"""The truncated higher-order singular value decomposition: orthonormal factors and the core they leave.

    \(A_n\) holds the \(r_n\) leading left singular vectors of the unfolding along axis n, and
    \(G = T \times_1 A_1^\top \cdots \times_N A_N^\top\). Exact at full ranks; otherwise
    \(\|T - \hat T\|^2 \le \sum_n \sum_{i > r_n} \sigma_{n,i}^2\), at most N times the least error.
    A side longer than the product of the others has that many singular vectors at most.

    Args:
        ranks: r_n, between 1 and the least side of the unfolding along axis n.

    Raises:
        ValueError: another number of ranks than axes, a rank out of range, NaN or infinity.

    Source: De Lathauwer, De Moor & Vandewalle (2000).
    """
    if len(ranks) != tensor.ndim:
        raise ValueError(f"{len(ranks)} ranks for a tensor of {tensor.ndim} axes: one an axis is needed")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError("the tensor holds NaN or infinite numbers: it has no decomposition")
    work = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    factors = []
    for mode, rank in enumerate(ranks):
        matrix = unfold(work, mode)
        if not 1 <= rank <= min(matrix.shape):
            raise ValueError(f"rank {rank} along axis {mode} must be between 1 and {min(matrix.shape)}")
        factors.append(torch.linalg.svd(matrix, full_matrices=False).U[:, :rank])
    core = work
    for mode, factor in enumerate(factors):
        core = mode_product(core, factor.mT, mode)
    return Tucker(core.to(tensor.dtype), tuple(f.to(tensor.dtype) for f in factors))


def multilinear_rank(tensor: Float[Tensor, "..."], tolerance: float | None = None) -> tuple[int, ...]:
    """The ranks of the unfoldings along all axes.

    Args:
        tolerance: singular values below this share of the largest count as zero; by default numerical precision.
    """
    return tuple(int(torch.linalg.matrix_rank(unfold(tensor, n), rtol=tolerance)) for n in range(tensor.ndim))


def tucker_size(shape: Sequence[int], ranks: Sequence[int]) -> int:
    r"""How many numbers a Tucker form holds: \(\prod r_n + \sum d_n r_n\).

    >>> tucker_size((32, 16, 3, 3), (8, 4, 3, 3))
    626
    """
    core = 1
    for rank in ranks:
        core *= rank
    return core + sum(d * r for d, r in zip(shape, ranks, strict=True))


def _axis(tensor: Tensor, mode: int) -> int:
    if not -tensor.ndim <= mode < tensor.ndim:
        raise ValueError(f"axis {mode} of a tensor of {tensor.ndim} axes")
    return mode % tensor.ndim
