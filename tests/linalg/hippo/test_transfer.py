import pytest
import torch

from gramian.linalg import hippo


def test_equals_the_resolvent():
    A, B = hippo.transition("legs", 7)
    C = torch.arange(7, dtype=torch.float64)
    points = torch.tensor([0.0, 0.5 + 2j, -3j], dtype=torch.complex128)
    direct = torch.stack([C.cdouble() @ torch.linalg.solve(s * torch.eye(7) - A, B.cdouble()) for s in points])
    assert torch.allclose(hippo.transfer(A, B, C, points), direct, atol=1e-12)


def test_half_of_the_pairs_stands_for_all_off_the_axis_too():
    A = torch.tensor([-1 + 2j, -1 - 2j, -0.5 + 1j, -0.5 - 1j], dtype=torch.complex128)
    B = torch.tensor([1 + 1j, 1 - 1j, 0.3j, -0.3j], dtype=torch.complex128)
    C = torch.tensor([2 - 1j, 2 + 1j, 1 + 0j, 1 - 0j], dtype=torch.complex128)
    s = torch.tensor([0.2 + 0.7j, -0.1 - 5j], dtype=torch.complex128)
    half = hippo.transfer(A[::2], B[::2], C[::2], s, torch.full((2,), 2.0, dtype=torch.float64))
    assert torch.allclose(half, hippo.transfer(A, B, C, s))


def test_real_points_are_frequencies():
    A, B = hippo.transition("legs", 4)
    omega = torch.tensor([0.0, 3.0], dtype=torch.float64)
    assert torch.allclose(hippo.transfer(A, B, B, omega), hippo.transfer(A, B, B, 1j * omega))
    assert float(hippo.transfer(A, B, torch.eye(4, dtype=torch.float64)[0], omega)[0].real) == pytest.approx(1.0)


def test_shapes_are_checked():
    A, B = hippo.transition("legs", 4)
    with pytest.raises(ValueError):
        hippo.transfer(A[:3], B, B, B)
    with pytest.raises(ValueError):
        hippo.transfer(A, B, B, B, torch.ones(4, dtype=torch.float64))
