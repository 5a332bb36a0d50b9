"""Transfer functions of linear systems given by a dense or a diagonal state matrix."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor


def transfer(
    A: Shaped[Tensor, "*shape"],
    B: Shaped[Tensor, " states"],
    C: Shaped[Tensor, " states"],
    points: Shaped[Tensor, " points"],
    multiplicity: Float[Tensor, " states"] | None = None,
) -> Complex[Tensor, " points"]:
    """G(s) = C (sI − A)⁻¹ B at every point.

    Real `points` are angular frequencies ω and stand for s = iω. Complex `points` are s itself; for a
    system discretized by the bilinear rule with step dt, G at z on the unit circle is G at
    s = (2/dt)(z − 1)/(z + 1).

    Args:
        A: a matrix (states, states), or the diagonal (states,) of a diagonal one.
        multiplicity: for a diagonal A of which only one of each conjugate pair is given: 2 for those,
            1 for real eigenvalues. The dropped partners are added.

    A dense A is triangularized once for all points; no gradient flows to it.

    Raises:
        ValueError: A neither square nor a vector, B and C of another size, or `multiplicity` with a
            dense A.
    """
    if A.ndim not in (1, 2) or (A.ndim == 2 and A.shape[0] != A.shape[1]) or A.shape[0] != B.shape[0]:
        raise ValueError(f"A is ({B.shape[0]}, {B.shape[0]}) or ({B.shape[0]},) beside such a B, not {tuple(A.shape)}")
    if multiplicity is not None and A.ndim == 2:
        raise ValueError("multiplicity belongs to a diagonal A, given as a vector")
    kind = torch.promote_types(torch.promote_types(A.dtype, B.dtype), torch.complex64)
    A, B, C = A.to(kind), B.to(kind), C.to(kind)
    s = points.to(kind) if points.is_complex() else 1j * points.to(kind)
    if A.ndim == 1:
        resolvent = 1 / (s[:, None] - A[None, :])
        if multiplicity is None:
            return resolvent @ (B * C)
        # the dropped partners have conjugate eigenvalue, B and C, so G(s) is not twice a real part off the axis
        partner = 1 / (s[:, None] - A.conj()[None, :])
        dropped = (multiplicity - 1).to(kind)
        return resolvent @ (B * C) + partner @ (dropped * (B * C).conj())
    # a triangularization keeps every point at O(states²): one Schur form serves them all
    form, basis = _schur(A)
    left, right = C @ basis, basis.conj().T @ B
    identity = torch.eye(A.shape[0], dtype=kind, device=A.device)
    chunks = []
    for chunk in s.split(256):
        shifted = chunk[:, None, None] * identity - form
        solved = torch.linalg.solve_triangular(shifted, right[None, :, None].expand(len(chunk), -1, 1), upper=True)
        chunks.append((left @ solved)[:, 0])
    return torch.cat(chunks)


def _schur(A: Tensor) -> tuple[Tensor, Tensor]:
    from scipy.linalg import schur

    form, basis = schur(A.detach().cpu().numpy(), output="complex")
    return torch.as_tensor(form, device=A.device), torch.as_tensor(basis, device=A.device)
