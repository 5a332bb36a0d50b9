import pytest
import torch

from gramian.analysis.kernels.infinite_width import ReluDual, log_kernel
from gramian.analysis.kernels.relu_ntk import kernel_ridge, relu_ntk


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_on_the_sphere_it_is_the_recursion_in_logarithms(depth):
    x = torch.nn.functional.normalize(normal(12, 5).abs(), dim=1)
    expected = log_kernel((x @ x.T).clamp(max=1), ReluDual(), depth, "ntk").exp()
    torch.testing.assert_close(relu_ntk(x, x, depth), expected, rtol=1e-6, atol=1e-9)


def test_two_layers_against_the_gradients_of_a_wide_network():
    """F = W₃ h₂ with hₗ = √(2/n) relu(Wₗ hₗ₋₁): the kernel is the sum over weights of products of gradients."""
    width = 3000
    weights = [normal(width, 3, seed=1), normal(width, width, seed=2), normal(1, width, seed=3)]
    x = normal(4, 3, seed=4)
    gradients = []
    for row in x:
        parts = [w.clone().requires_grad_() for w in weights]
        h = row
        for w in parts[:-1]:
            h = (w @ h).relu() * (2 / width) ** 0.5
        gradients.append(torch.autograd.grad((parts[-1] @ h)[0], parts))
    stacks = [torch.stack([g[k].flatten() for g in gradients]) for k in range(3)]
    found = torch.stack([s @ s.T for s in stacks]).sum(0)
    expected = relu_ntk(x, x, 2)
    assert float((found - expected).norm() / expected.norm()) < 0.15


def test_it_is_homogeneous_and_positive_definite_and_takes_zeros():
    x = normal(10, 3)
    torch.testing.assert_close(relu_ntk(3 * x, 2 * x), 6 * relu_ntk(x, x))
    assert float(torch.linalg.eigvalsh(relu_ntk(x, x)).min()) > 0
    assert torch.equal(relu_ntk(torch.zeros(1, 3).double(), x), torch.zeros(1, 10).double())


def test_ridge_is_that_of_scikit_learn_and_blind_to_scale():
    from sklearn.kernel_ridge import KernelRidge

    x, y = normal(20, 3), normal(20, seed=1)
    gram = relu_ntk(x, x)
    oracle = KernelRidge(alpha=0.1 * 20 * float(gram.diagonal().mean()), kernel="precomputed").fit(gram, y)
    torch.testing.assert_close(kernel_ridge(gram, y, 0.1), torch.from_numpy(oracle.dual_coef_))
    torch.testing.assert_close(7 * gram @ kernel_ridge(7 * gram, y, 0.1), gram @ kernel_ridge(gram, y, 0.1))


def test_what_cannot_be_is_refused():
    x = normal(3, 2)
    with pytest.raises(ValueError, match="depth"):
        relu_ntk(x, x, 0)
    with pytest.raises(ValueError, match="finite"):
        relu_ntk(x * float("nan"), x)
    with pytest.raises(ValueError, match="strength"):
        kernel_ridge(x @ x.T, x[:, 0], 0)
