"""Householder products, the nearest orthogonal matrix, Haar samples and the Stiefel manifold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gramian.linalg.manifold import orthogonal


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), share=st.floats(0.1, 1), seed=st.integers(0, 999))
def test_reflections_and_frames_go_back_and_forth(n, share, seed):
    k = max(1, int(share * n))
    V = normal(n, k, seed=seed)
    Q = orthogonal.householder_product(V)
    torch.testing.assert_close(Q.T @ Q, torch.eye(n, dtype=torch.float64))
    assert torch.linalg.det(Q).item() == pytest.approx((-1) ** k)
    x = normal(n, 3, seed=seed + 1)
    torch.testing.assert_close(orthogonal.apply_householder(V, x), Q @ x)
    torch.testing.assert_close(orthogonal.apply_householder(V, x, transpose=True), Q.T @ x)
    vectors, signs = orthogonal.householder_vectors(Q[:, :k].contiguous())
    torch.testing.assert_close(orthogonal.householder_product(vectors, columns=k) * signs, Q[:, :k], rtol=0, atol=1e-9)


def test_columns_that_need_no_reflection_keep_their_signs():
    frame = torch.eye(5, 3, dtype=torch.float64) * torch.tensor([1.0, -1.0, 1.0])
    vectors, signs = orthogonal.householder_vectors(frame)
    torch.testing.assert_close(orthogonal.householder_product(vectors, columns=3) * signs, frame)


def test_products_are_batched_and_differentiable():
    V = normal(2, 5, 3)
    together = orthogonal.householder_product(V)
    torch.testing.assert_close(together[1], orthogonal.householder_product(V[1]))
    assert torch.autograd.gradcheck(lambda v: orthogonal.householder_product(v, columns=2), (V.requires_grad_(),))


def test_haar_samples_have_the_uniform_distribution():
    samples = torch.stack(
        [orthogonal.haar(3, torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(800)]
    )
    torch.testing.assert_close(samples @ samples.mT, torch.eye(3, dtype=torch.float64).expand(800, 3, 3))
    # by Archimedes, every entry of a uniform rotation in three dimensions is uniform on [-1, 1]
    for i, j in ((0, 0), (2, 2), (1, 0)):
        assert stats.kstest(samples[:, i, j].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    without_signs = torch.stack([torch.linalg.qr(normal(3, 3, seed=i)).Q for i in range(800)])
    assert stats.kstest(without_signs[:, 0, 0].numpy(), stats.uniform(-1, 2).cdf).pvalue < 1e-3


def test_nearest_orthogonal_and_procrustes():
    A = normal(5, 3)
    Q = orthogonal.nearest_orthogonal(A)
    torch.testing.assert_close(Q.T @ Q, torch.eye(3, dtype=torch.float64))
    rivals = torch.stack([torch.linalg.qr(Q + 0.1 * normal(5, 3, seed=i)).Q for i in range(20)])
    rivals = rivals * torch.einsum("bij,ij->bj", rivals, Q).sign().unsqueeze(1)
    assert ((rivals - A).flatten(1).norm(dim=1) >= (Q - A).norm() - 1e-12).all()
    R = orthogonal.haar(4, torch.Generator().manual_seed(1), dtype=torch.float64)
    X = normal(20, 4)
    torch.testing.assert_close(orthogonal.procrustes(X, X @ R), R)
    proper = orthogonal.procrustes(X, X * torch.tensor([1.0, 1.0, 1.0, -1.0]), proper=True)
    assert torch.linalg.det(proper).item() == pytest.approx(1.0)


def test_stiefel_tangents_and_retraction():
    X = orthogonal.haar(6, torch.Generator().manual_seed(0), columns=2, dtype=torch.float64)
    V = orthogonal.stiefel_tangent(X, normal(6, 2))
    assert (X.T @ V + V.T @ X).abs().max() < 1e-12
    torch.testing.assert_close(orthogonal.stiefel_tangent(X, V), V)
    errors = []
    for t in (1e-2, 1e-3):
        Y = orthogonal.stiefel_retract(X, t * V)
        torch.testing.assert_close(Y.T @ Y, torch.eye(2, dtype=torch.float64))
        errors.append(float((Y - X - t * V).norm()))
    assert errors[1] < 0.02 * errors[0]  # agrees to first order


def test_bad_input_raises():
    with pytest.raises(ValueError, match="reflector is zero"):
        orthogonal.householder_product(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="NaN"):
        orthogonal.householder_product(torch.full((3, 1), torch.nan))
    with pytest.raises(ValueError, match="not orthonormal"):
        orthogonal.householder_vectors(2 * torch.eye(3))
    with pytest.raises(ValueError, match="cannot be orthonormal"):
        orthogonal.householder_vectors(torch.ones(2, 3))
    with pytest.raises(ValueError, match="rank-deficient"):
        orthogonal.nearest_orthogonal(torch.ones(3, 2))
