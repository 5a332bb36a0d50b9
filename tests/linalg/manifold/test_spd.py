"""The laws that every metric on positive definite matrices obeys, and the functions they stand on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.manifold import spd, spd_deformed
from gramian.linalg.manifold import spd_functions as fn

torch_double = torch.float64


def random_spd(*shape: int, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    *batch, n = shape
    noise = torch.randn(*batch, n, n, generator=generator, dtype=torch_double)
    return fn.matrix_exp(spread * fn.symmetrize(noise) / n**0.5)


def tangent(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return fn.symmetrize(torch.randn(*shape, shape[-1], generator=generator, dtype=torch_double))


METRICS = [
    spd.AffineInvariant(),
    spd.LogEuclidean(),
    spd.BuresWasserstein(transport_steps=32),
    spd_deformed.Congruent(spd.BuresWasserstein(transport_steps=32), random_spd(4, seed=9)),
    spd_deformed.PowerDeformed(spd.AffineInvariant(), 0.5),
    spd_deformed.PowerDeformed(spd.BuresWasserstein(transport_steps=32), -0.7),
]
every_metric = pytest.mark.parametrize("metric", METRICS, ids=repr)


@every_metric
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_exp_and_log_are_inverse_and_lengths_are_distances(metric, seed):
    P, Q = random_spd(3, 4, seed=seed), random_spd(3, 4, seed=seed + 1)
    V = metric.log(P, Q)
    torch.testing.assert_close(metric.exp(P, V), Q, rtol=1e-8, atol=1e-9)
    small = 0.05 * tangent(3, 4, seed=seed + 2)
    torch.testing.assert_close(metric.log(P, metric.exp(P, small)), small, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(metric.inner(P, V, V).sqrt(), metric.dist(P, Q), rtol=1e-8, atol=0)
    torch.testing.assert_close(metric.dist(P, Q), metric.dist(Q, P), rtol=1e-8, atol=0)
    third = metric.geodesic(P, Q, 1 / 3)
    torch.testing.assert_close(metric.dist(P, third), metric.dist(P, Q) / 3, rtol=1e-7, atol=0)
    torch.testing.assert_close(metric.dist(third, Q), 2 * metric.dist(P, Q) / 3, rtol=1e-7, atol=0)


@every_metric
def test_transport_keeps_inner_products_and_carries_the_velocity_to_itself(metric):
    P, Q = random_spd(2, 4, seed=3), random_spd(2, 4, seed=4)
    U, V = tangent(2, 4, seed=5), tangent(2, 4, seed=6)
    there = metric.inner(Q, metric.transport(P, Q, U), metric.transport(P, Q, V))
    torch.testing.assert_close(there, metric.inner(P, U, V), rtol=1e-6, atol=1e-8)
    # a geodesic is the curve that is parallel to itself
    torch.testing.assert_close(metric.transport(P, Q, metric.log(P, Q)), -metric.log(Q, P), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(metric.transport(P, P, V), V, rtol=1e-8, atol=1e-9)


@every_metric
def test_whitening_is_an_isometry_and_the_tangent_space_inverts(metric):
    P, X = random_spd(4, seed=7), random_spd(5, 4, seed=8)
    U, V = tangent(4, seed=1), tangent(4, seed=2)
    torch.testing.assert_close(metric.unwhiten(P, metric.whiten(P, V)), V, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close((metric.whiten(P, U) * metric.whiten(P, V)).sum(), metric.inner(P, U, V))
    vectors = metric.tangent_space(X, P)
    assert vectors.shape == (5, 10)
    torch.testing.assert_close(vectors.norm(dim=-1), metric.dist(P, X), rtol=1e-8, atol=0)
    torch.testing.assert_close(metric.from_tangent_space(vectors, P), X, rtol=1e-7, atol=1e-9)


@every_metric
def test_the_mean_is_where_the_gradient_of_the_mean_squared_distance_vanishes(metric):
    X, w = (
        random_spd(2, 6, 4, seed=11),
        torch.rand(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch_double),
    )
    G = metric.frechet_mean(X, w, tol=1e-13, max_iter=300)
    force = (w[..., None, None] * metric.log(G.unsqueeze(-3), X)).sum(-3)
    assert force.abs().max() < 1e-9
    assert (metric.frechet_mean(X) - metric.frechet_mean(X[:, [5, 3, 1, 0, 2, 4]])).abs().max() < 1e-8


@every_metric
def test_the_mean_has_the_right_gradient(metric):
    if isinstance(metric, spd_deformed.Congruent):
        metric = spd_deformed.Congruent(metric.base, random_spd(2, seed=9))
    X, w = random_spd(3, 2, seed=12, spread=0.7), torch.tensor([1.0, 2.0, 0.5], dtype=torch_double)

    def mean(X, w):
        return metric.frechet_mean(fn.symmetrize(X), w, tol=1e-13, max_iter=300)

    assert torch.autograd.gradcheck(mean, (X.requires_grad_(), w.requires_grad_()), atol=1e-6, fast_mode=True)


@every_metric
@pytest.mark.parametrize("diagonal", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0)])
def test_distances_logs_and_exponentials_differentiate_where_eigenvalues_repeat(metric, diagonal):
    if isinstance(metric, spd_deformed.Congruent):
        metric = spd_deformed.Congruent(spd.BuresWasserstein(), random_spd(3, seed=9))
    P = torch.diag(torch.tensor(diagonal, dtype=torch_double)).requires_grad_()
    Q, V = random_spd(3, seed=2).requires_grad_(), (0.1 * tangent(3, seed=3)).requires_grad_()

    def wrapped(operation):
        return lambda A, B: operation(fn.symmetrize(A), fn.symmetrize(B))

    assert torch.autograd.gradcheck(wrapped(metric.log), (P, Q))
    assert torch.autograd.gradcheck(wrapped(metric.exp), (P, V))
    if not isinstance(metric, spd_deformed._Pulled) or not isinstance(metric.base, spd.BuresWasserstein):
        assert torch.autograd.gradcheck(wrapped(metric.dist), (P, Q))


@pytest.mark.parametrize("function", [fn.EXP, fn.LOG, fn.power(0.5), fn.power(-1), fn.power(1.7)], ids=lambda f: f.name)
@pytest.mark.parametrize("diagonal", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (0.3, 1.0, 2.5)])
def test_matrix_functions_differentiate_twice(function, diagonal):
    A = torch.diag(torch.tensor(diagonal, dtype=torch_double)).requires_grad_()
    H = tangent(3, seed=3).requires_grad_()
    call = lambda a: fn.symmetric_function(fn.symmetrize(a), function)  # noqa: E731
    assert torch.autograd.gradcheck(call, (A,))
    assert torch.autograd.gradgradcheck(call, (A,))
    assert torch.autograd.gradcheck(
        lambda a, h: fn.function_derivative(fn.symmetrize(a), fn.symmetrize(h), function), (A, H)
    )


def test_a_function_without_a_closed_divided_difference_still_differentiates():
    cosine = fn.SpectralFunction("cos", torch.cos, lambda x: -torch.sin(x), lambda x: -torch.cos(x))
    A = torch.diag(torch.tensor([1.0, 1.0 + 1e-9, 2.0], dtype=torch_double)).requires_grad_()
    call = lambda a: fn.symmetric_function(fn.symmetrize(a), cosine)  # noqa: E731
    assert torch.autograd.gradcheck(call, (A,))
    assert torch.autograd.gradgradcheck(call, (A,))


def test_lyapunov_solves_its_equation_and_differentiates_twice():
    P, V = (
        random_spd(2, 4, seed=1),
        torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch_double),
    )
    L = fn.lyapunov(P, V)
    torch.testing.assert_close(P @ L + L @ P, V)
    call = lambda p, v: fn.lyapunov(fn.symmetrize(p), v)  # noqa: E731
    inputs = (torch.eye(3, dtype=torch_double).requires_grad_(), V[0, :3, :3].clone().requires_grad_())
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_pyriemann_agrees():
    pytest.importorskip("pyriemann")
    from pyriemann.geometry import distance, mean, tangentspace

    X = random_spd(8, 5, seed=21, spread=2.0)
    ours = spd.AffineInvariant().frechet_mean(X, tol=1e-13, max_iter=300)
    np.testing.assert_allclose(ours.numpy(), mean.mean_riemann(X.numpy(), tol=1e-12, maxiter=500), rtol=1e-8)
    np.testing.assert_allclose(
        spd.AffineInvariant().tangent_space(X, ours).numpy(),
        tangentspace.tangent_space(X.numpy(), ours.numpy()),
        atol=1e-9,
    )
    for name, metric in (
        ("riemann", "affine-invariant"),
        ("logeuclid", "log-euclidean"),
        ("wasserstein", "bures-wasserstein"),
    ):
        theirs = distance.distance(X[0].numpy(), X[1].numpy(), metric=name)
        assert abs(float(spd.metric(metric).dist(X[0], X[1])) - theirs) < 1e-8, name
    wasserstein = mean.mean_wasserstein(X.numpy(), tol=1e-12, maxiter=500)
    np.testing.assert_allclose(
        spd.BuresWasserstein().frechet_mean(X, tol=1e-13, max_iter=500).numpy(), wasserstein, rtol=1e-7
    )


def test_closed_forms():
    A, B = (torch.diag(torch.tensor(d, dtype=torch_double)) for d in ((1.0, 4.0), (9.0, 16.0)))
    means = {
        "affine-invariant": (3.0, 8.0),  # geometric
        "log-euclidean": (3.0, 8.0),
        "bures-wasserstein": (4.0, 9.0),  # squared mean of the roots
    }
    for name, expected in means.items():
        got = spd.metric(name).frechet_mean(torch.stack((A, B)), tol=1e-14, max_iter=300).diagonal()
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch_double), rtol=1e-12, atol=0)
    P, Q, M = random_spd(3, 4, seed=31).unbind(0)
    C = tangent(4, seed=5)
    air, bw = spd.AffineInvariant(), spd.BuresWasserstein()
    torch.testing.assert_close(air.dist(C @ P @ C.mT, C @ Q @ C.mT), air.dist(P, Q), rtol=1e-7, atol=0)
    trace = P.trace() + Q.trace() - 2 * fn.matrix_sqrt(fn.symmetrize(fn.matrix_sqrt(P) @ Q @ fn.matrix_sqrt(P))).trace()
    torch.testing.assert_close(bw.dist(P, Q), trace.sqrt())
    near_log = spd_deformed.PowerDeformed(bw, 1e-4).dist(P, Q)
    torch.testing.assert_close(near_log, 0.5 * spd.LogEuclidean().dist(P, Q), rtol=1e-3, atol=0)
    identity = spd_deformed.Congruent(bw, torch.eye(4, dtype=torch_double))
    torch.testing.assert_close(identity.log(P, Q), bw.log(P, Q))


def test_a_mean_of_far_apart_and_ill_conditioned_matrices_converges():
    X = random_spd(10, 6, seed=5, spread=4.0)
    X[0] = torch.diag(torch.logspace(-3, 3, 6, dtype=torch_double))
    G = spd.AffineInvariant().frechet_mean(X, tol=1e-11, max_iter=200)
    assert spd.AffineInvariant().log(G, X).mean(0).abs().max() / G.abs().max() < 1e-8


def test_bad_input_raises():
    air, P = spd.AffineInvariant(), random_spd(3, seed=0)
    with pytest.raises(fn.NotPositiveDefiniteError, match="shrinkage"):
        air.log(P, torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch_double)))
    with pytest.raises(ValueError, match="NaN"):
        air.log(P, torch.full((3, 3), torch.nan, dtype=torch_double))
    with pytest.raises(ValueError, match="not symmetric"):
        air.log(P, P + torch.triu(torch.ones(3, 3, dtype=torch_double), 1))
    with pytest.raises(ValueError, match="leaves the cone"):
        spd.BuresWasserstein().exp(P, -3 * P)
    with pytest.raises(ValueError, match="theta=0"):
        spd_deformed.PowerDeformed(air, 0)
    with pytest.raises(ValueError, match="weights"):
        air.frechet_mean(P[None], torch.tensor([-1.0], dtype=torch_double))
    with pytest.raises(ValueError, match="not one of"):
        spd.metric("euclid")
    with pytest.raises(ValueError, match="n\\(n"):
        fn.vector_to_symmetric(torch.ones(4))
    with pytest.warns(spd.MeanNotConverged, match="max_iter"):
        air.frechet_mean(random_spd(4, 3, seed=1), max_iter=1)


def test_a_lone_base_point_serves_many_matrices_and_gathers_their_gradients():
    P, X = random_spd(3, seed=1).requires_grad_(), random_spd(5, 3, seed=2)
    for metric in (spd.AffineInvariant(), spd.LogEuclidean(), spd.BuresWasserstein()):
        (together,) = torch.autograd.grad(metric.log(P, X).square().sum(), P)
        (one_by_one,) = torch.autograd.grad(sum(metric.log(P, x).square().sum() for x in X), P)
        torch.testing.assert_close(together, one_by_one)
