import hypothesis
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import strategies as st

from gramian.linalg.spectral import lanczos as module
from gramian.linalg.spectral.lanczos import (
    NotConverged,
    extreme_eigenvalues,
    hutch_plus_plus,
    hutchinson,
    lanczos,
    lanczos_quadrature,
)  # fmt: skip


def symmetric(size, seed=0, dtype=torch.float64):
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return (a + a.mT) / 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_krylov_relation_holds(size, steps, seed):
    a = symmetric(size, seed)
    found = lanczos(lambda v: a @ v, size, steps, generator=generator(seed))
    v, k = found.basis, len(found.diagonal)
    assert k == min(steps, size)
    torch.testing.assert_close(v.mT @ v, torch.eye(k, dtype=torch.float64), atol=1e-10, rtol=0)
    tri = torch.diag(found.diagonal) + torch.diag(found.off_diagonal, 1) + torch.diag(found.off_diagonal, -1)
    torch.testing.assert_close(v.mT @ a @ v, tri, atol=1e-9, rtol=0)
    left = a @ v - v @ tri
    torch.testing.assert_close(left[:, :-1], torch.zeros_like(left[:, :-1]), atol=1e-9, rtol=0)
    assert abs(float(left[:, -1].norm()) - found.rest) < 1e-9


def test_a_full_run_is_eigh():
    a = symmetric(50)
    values = lanczos(lambda v: a @ v, 50, 50, generator=generator()).ritz()[0]
    np.testing.assert_allclose(values.numpy(), scipy.linalg.eigh(a.numpy(), eigvals_only=True), atol=1e-9)


def test_extremes_match_and_a_short_run_warns():
    a = symmetric(200, 3)
    low, high = extreme_eigenvalues(lambda v: a @ v, 200, steps=80, generator=generator())
    exact = torch.linalg.eigvalsh(a)
    assert abs(low - exact[0]) < 1e-4 * exact.abs().max()
    assert abs(high - exact[-1]) < 1e-4 * exact.abs().max()
    with pytest.warns(NotConverged, match="more steps"):
        extreme_eigenvalues(lambda v: a @ v, 200, steps=4, generator=generator())


def test_residuals_are_the_ritz_pairs_own():
    a = symmetric(60, 4)
    found = lanczos(lambda v: a @ v, 60, 20, generator=generator())
    values, vectors = found.ritz()
    y = found.basis @ vectors
    torch.testing.assert_close((a @ y - y * values).norm(dim=0), found.residuals(), atol=1e-9, rtol=1e-6)


def test_low_rank_ends_early_and_float32_works():
    u = torch.randn(30, 3, generator=generator())
    a = u @ u.mT
    found = lanczos(lambda v: a @ v, 30, 20, generator=generator(), dtype=torch.float32)
    assert len(found.diagonal) <= 6
    values = found.ritz()[0]
    torch.testing.assert_close(values[-3:], torch.linalg.eigvalsh(a.double())[-3:], rtol=1e-4, atol=1e-4)
    zero = lanczos(torch.zeros_like, 5, 5, generator=generator())
    assert zero.ritz()[0].tolist() == [0.0]


def test_quadrature_gives_trace_and_frobenius_norm():
    a = symmetric(100, 5)
    a = a @ a / 10
    q = lanczos_quadrature(lambda v: a @ v, 100, steps=30, probes=40, generator=generator())
    assert abs(float(q.weights.sum()) - 1) < 1e-10
    assert abs(q.trace(lambda t: t) / float(a.trace()) - 1) < 0.05
    assert abs(q.trace(torch.square) / float(a.square().sum()) - 1) < 0.08
    grid = torch.linspace(-5, 60, 4000, dtype=torch.float64)
    assert abs(float(torch.trapezoid(q.density(grid, 0.3), grid)) - 1) < 1e-3
    one = torch.diag(torch.arange(1.0, 9.0, dtype=torch.float64))
    exact = lanczos_quadrature(lambda v: one @ v, 8, steps=8, probes=1, generator=generator())
    assert abs(exact.trace(torch.log) - float(torch.log(torch.arange(1.0, 9.0)).sum())) < 1e-6


def test_traces():
    a = symmetric(80, 6) + 2 * torch.eye(80, dtype=torch.float64)
    exact = float(a.trace())
    plain = hutchinson(lambda v: a @ v, 80, 400, generator=generator())
    assert abs(plain.value - exact) < 4 * plain.standard_error
    u = torch.randn(80, 8, generator=generator(), dtype=torch.float64)
    low = u @ u.mT
    sketched = hutch_plus_plus(lambda v: low @ v, 80, 30, generator=generator())
    assert abs(sketched.value - float(low.trace())) < 1e-8
    decaying = a @ torch.diag(torch.arange(1, 81, dtype=torch.float64) ** -2.0) @ a.mT
    errors = {}
    for f in (hutchinson, hutch_plus_plus):
        trials = [f(lambda v: decaying @ v, 80, 30, generator=generator(i)).value for i in range(20)]
        errors[f.__name__] = np.std(trials)
    assert errors["hutch_plus_plus"] < errors["hutchinson"] / 5
    assert hutch_plus_plus(lambda v: a[:3, :3] @ v, 3, 12, generator=generator()).standard_error == 0


def test_bad_input_is_refused():
    for size, steps in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="at least"):
            lanczos(lambda v: v, size, steps)
    with pytest.raises(ValueError, match="start"):
        lanczos(lambda v: v, 3, 2, start=torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        lanczos(lambda v: v * float("nan"), 3, 2)
    with pytest.raises(ValueError, match="shape"):
        hutchinson(lambda v: v[:2], 3, 2)
    with pytest.raises(ValueError, match="at least 3"):
        hutch_plus_plus(lambda v: v, 3, 2)
    with pytest.raises(ValueError, match="probes"):
        lanczos_quadrature(lambda v: v, 3, probes=0)
    with pytest.raises(ValueError, match="width"):
        lanczos_quadrature(lambda v: v, 3).density(torch.zeros(2), 0.0)
    assert set(module.__all__) <= set(dir(module))
