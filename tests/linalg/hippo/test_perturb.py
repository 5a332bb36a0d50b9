import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg import hippo
from gramian.linalg.hippo.perturb import UnstableSpectrumWarning


@given(st.integers(2, 12), st.floats(0.01, 0.5), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_result_is_what_it_says(size, eps, seed):
    A, _ = hippo.transition("legs", size)
    found = hippo.perturb_diagonalize(A, eps, 5, 2, generator=torch.Generator().manual_seed(seed))
    product = found.V @ torch.diag(found.w) @ torch.linalg.inv(found.V)
    assert torch.allclose(product, (A + found.E).to(product.dtype), atol=1e-8)
    assert float(torch.linalg.matrix_norm(found.E, 2)) <= eps * (1 + 1e-9)
    assert torch.allclose(torch.linalg.vector_norm(found.V, dim=0), torch.ones(size, dtype=torch.float64))
    assert found.report["condition"] == pytest.approx(hippo.condition_number(found.V))


def test_optimizing_beats_drawing():
    A, _ = hippo.transition("legs", 32)
    drawn = hippo.perturb_diagonalize(A, 0.1, 0).report["condition"]
    assert hippo.perturb_diagonalize(A, 0.1, 60).report["condition"] < 0.6 * drawn


def test_gradients_that_the_caller_switched_off_are_of_no_concern():
    A, _ = hippo.transition("legs", 6)
    with torch.no_grad():
        off = hippo.perturb_diagonalize(A, 0.1, 3)
    assert torch.equal(off.w, hippo.perturb_diagonalize(A, 0.1, 3).w)


def test_equal_calls_agree_and_complex_matrices_work():
    A, _ = hippo.transition("legs", 6)
    first, second = (hippo.perturb_diagonalize(A, 0.1, 3) for _ in range(2))
    assert torch.equal(first.E, second.E)
    found = hippo.perturb_diagonalize(A * (1 + 0.2j), 0.1, 3)
    assert found.E.is_complex()
    assert found.report["residual"] < 1e-10


def test_modal_maps_keep_the_system():
    A, B = hippo.transition("legs", 16)
    C = torch.ones(16, dtype=torch.float64)
    found = hippo.perturb_diagonalize(A, 0.1, 10)
    omega = torch.linspace(0, 50, 20, dtype=torch.float64)
    modal_B, modal_C = found.to_modal(B, C)
    dense = hippo.transfer(A + found.E, B, C, omega)
    assert torch.allclose(hippo.transfer(found.w, modal_B, modal_C, omega), dense, atol=1e-9)


def test_relative_radius():
    A, _ = hippo.transition("legs", 8)
    found = hippo.perturb_diagonalize(A, 0.01, 0, relative=True)
    norm = float(torch.linalg.matrix_norm(A, 2))
    assert float(torch.linalg.matrix_norm(found.E, 2)) == pytest.approx(0.01 * norm)


def test_unstable_spectra():
    A = -1e-3 * torch.eye(4, dtype=torch.float64)
    with pytest.raises(ValueError, match="Re ≥ 0"):
        hippo.perturb_diagonalize(A, 5.0, 3, stable=True)
    with pytest.warns(UnstableSpectrumWarning):
        hippo.perturb_diagonalize(A, 5.0, 3)


@pytest.mark.parametrize("A", [torch.ones(2, 3), torch.full((2, 2), float("nan")), torch.full((2, 2), float("inf"))])
def test_bad_matrices_are_refused(A):
    with pytest.raises(ValueError):
        hippo.perturb_diagonalize(A.double())


@pytest.mark.parametrize(
    "options", [{"eps": 0.0}, {"eps": -1.0}, {"eps": float("nan")}, {"candidates": 0}, {"steps": -1}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError):
        hippo.perturb_diagonalize(torch.eye(2, dtype=torch.float64), **options)


def test_plain_diagonalization_reports_how_bad_it_is():
    # a Jordan block, and a matrix whose eigenvectors are numerically dependent
    jordan = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert hippo.diagonalize(jordan).report["residual"] > 0.5
    assert hippo.diagonalize(hippo.transition("legs", 32)[0]).report["condition"] > 1e15
