import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg import hippo


@given(st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_legs_is_normal_minus_rank_one(half):
    size = 2 * half
    A, B = hippo.transition("legs", size)
    eigenvalues, V, P, VB = hippo.legs_normal_plus_low_rank(size)
    both, basis = torch.cat([eigenvalues, eigenvalues.conj()]), torch.cat([V, V.conj()], 1)
    low_rank = torch.cat([P, P.conj()])
    restored = basis @ (torch.diag(both) - torch.outer(low_rank, low_rank.conj())) @ basis.conj().T
    assert torch.allclose(restored, A.to(restored.dtype), rtol=0, atol=1e-12 * size**2)
    assert torch.allclose(basis.conj().T @ basis, torch.eye(size, dtype=basis.dtype), atol=1e-12)
    assert torch.allclose(basis @ torch.cat([VB, VB.conj()]), B.to(basis.dtype), atol=1e-10)


def test_normal_part_is_skew_but_for_its_diagonal():
    A, _ = hippo.transition("legs", 256)
    P = torch.sqrt(torch.arange(256, dtype=torch.float64) + 0.5)
    normal = A + torch.outer(P, P)
    assert float((normal + normal.T + torch.eye(256, dtype=torch.float64)).abs().max()) <= 1e-12


def test_known_formulas():
    inverse = hippo.inverse_diagonal(4)
    assert inverse.imag.tolist() == pytest.approx([4 / math.pi * 3, 4 / math.pi * (4 / 3 - 1)])
    assert hippo.linear_diagonal(6).imag.tolist() == pytest.approx([0, math.pi, 2 * math.pi])
    assert hippo.real_diagonal(3).tolist() == [-1, -2, -3]
    for init in hippo.DIAGONAL_INITS:
        A, B, multiplicity = hippo.diagonal_init(init, 8)
        assert A.shape == B.shape == multiplicity.shape
        assert float((multiplicity).sum()) == 8
        assert float(A.real.max()) < 0


@pytest.mark.parametrize("call", [
    lambda: hippo.legs_diagonal(5), lambda: hippo.inverse_diagonal(3), lambda: hippo.linear_diagonal(0),
    lambda: hippo.real_diagonal(0), lambda: hippo.diagonal_init("random", 4),
])  # fmt: skip
def test_bad_sizes_are_refused(call):
    with pytest.raises(ValueError):
        call()


@given(st.integers(1, 9), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_conjugate_half_keeps_every_sum(size, seed):
    matrix = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    w = torch.linalg.eigvals(matrix)
    kept, multiplicity = hippo.conjugate_half(w)
    whole = torch.exp(w * 0.1).sum()
    assert float((multiplicity * torch.exp(w[kept] * 0.1)).real.sum()) == pytest.approx(float(whole.real), abs=1e-9)


def test_conjugate_half_refuses_a_complex_spectrum():
    with pytest.raises(ValueError, match="conjugate pairs"):
        hippo.conjugate_half(torch.tensor([1 + 1j, 2 + 0.5j], dtype=torch.complex128))
