import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from gramian.linalg import hippo
from gramian.linalg.scan import lti


def system(channels, states, seed, kind=torch.complex128):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return torch.randn(channels, states, dtype=kind, generator=generator)

    A = draw()
    A = torch.complex(-A.real.abs() - 0.05, 10 * A.imag) if A.is_complex() else -A.abs() - 0.05
    return A, draw(), draw(), 0.02 + 0.1 * torch.rand(channels, dtype=torch.float64, generator=generator)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 70), st.sampled_from(lti.DISCRETIZATIONS), st.booleans())
@settings(max_examples=40, deadline=None)
def test_kernel_is_the_recurrences_impulse_response(channels, states, length, method, real):
    A, B, C, dt = system(channels, states, length, torch.float64 if real else torch.complex128)
    discrete = lti.discretize_diagonal(A, B, dt, method)
    x, expected = discrete.Bbar, []
    for _ in range(length):
        expected.append((2 - real) * (C * x).sum(-1).real)
        x = discrete.decay * x
    kernel = lti.lti_kernel_diagonal(A, B, C, dt, length, discretization=method)
    assert torch.allclose(kernel, torch.stack(expected, -1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", lti.DISCRETIZATIONS)
def test_discretization_equals_scipys(method):
    A, B, _, dt = system(1, 3, 0, torch.float64)
    decay, drive, *_ = signal.cont2discrete(
        (np.diag(A[0]), B.numpy().T, np.ones((1, 3)), np.zeros((1, 1))), float(dt[0]), method
    )
    ours = lti.discretize_diagonal(A, B, dt, method)
    assert np.allclose(np.diag(decay), ours.decay[0])
    assert np.allclose(drive[:, 0], ours.Bbar[0])


def test_zero_order_hold_has_no_cancellation_for_small_steps():
    dt = torch.logspace(-12, 0, 49, dtype=torch.float64)
    A = torch.full((49, 1), -0.3 + 0.7j, dtype=torch.complex128)
    ours = lti.discretize_diagonal(A, torch.ones_like(A), dt).Bbar[:, 0]
    z = (A[:, 0] * dt).numpy()
    import mpmath

    exact = [complex(mpmath.expm1(complex(v)) / complex(v)) * float(h) for v, h in zip(z, dt)]
    assert np.abs(ours.numpy() / np.array(exact) - 1).max() < 1e-14


def test_bilinear_survives_a_real_decay_of_zero():
    A = torch.tensor([[-20.0]], dtype=torch.float64, requires_grad=True)
    ones = torch.ones(1, 1, dtype=torch.float64)
    kernel = lti.lti_kernel_diagonal(
        A, ones, ones, torch.tensor([0.1], dtype=torch.float64), 4, discretization="bilinear"
    )
    assert kernel.tolist()[0] == pytest.approx([0.05, 0, 0, 0])
    kernel.sum().backward()
    assert torch.isfinite(A.grad).all()


@pytest.mark.parametrize("method", lti.DISCRETIZATIONS)
def test_long_phases_keep_single_precision(method):
    A, B = hippo.legs_diagonal(64)
    C = torch.randn(1, 32, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    low = (A[None].cfloat(), B[None].cfloat(), C)
    dt = torch.tensor([0.1])
    single = lti.lti_kernel_diagonal(*low, dt, 16384, discretization=method)
    double = lti.lti_kernel_diagonal(*(x.cdouble() for x in low), dt.double(), 16384, discretization=method)
    assert single.dtype == torch.float32
    assert float((single - double).abs().max() / double.abs().max()) < 1e-5


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_convolution(length, taps, seed):
    rng = np.random.default_rng(seed)
    u, kernel = rng.normal(size=(2, 3, length)), rng.normal(size=(3, taps))
    ours = lti.fft_convolution(torch.tensor(u), torch.tensor(kernel)).numpy()
    for b in range(2):
        for c in range(3):
            assert np.allclose(ours[b, c], np.convolve(u[b, c], kernel[c])[:length], atol=1e-10)


@pytest.mark.parametrize("method", lti.DISCRETIZATIONS)
@given(length=st.integers(1, 40), cut=st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_states_carry_over(method, length, cut):
    A, B, C, dt = system(2, 3, length)
    u = torch.randn(2, 2, length + cut, dtype=torch.float64, generator=torch.Generator().manual_seed(cut))
    discrete = lti.discretize_diagonal(A, B, dt, method)
    twice = torch.full((3,), 2.0, dtype=torch.float64)
    kernel = lti.lti_kernel_diagonal(A, B, C, dt, length + cut, discretization=method)
    whole = lti.fft_convolution(u, kernel)
    state = lti.lti_last_state(discrete, u[..., :cut])
    tail = lti.fft_convolution(u[..., cut:], kernel) + lti.lti_state_response(discrete, C, state, length, twice)
    assert torch.allclose(tail, whole[..., cut:], atol=1e-10)
    last = lti.lti_last_state(discrete, u[..., cut:], state)
    stepped = torch.zeros_like(last)
    for t in range(length + cut):
        y, stepped = lti.lti_step(discrete, u[..., t], stepped, C, twice)
    assert torch.allclose(last, stepped, atol=1e-10)
    assert torch.allclose(y, whole[..., -1], atol=1e-10)


@pytest.mark.parametrize("method", lti.DISCRETIZATIONS)
@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
def test_gradients(method, kind):
    arguments = tuple(x.requires_grad_() for x in system(2, 2, 7, kind))

    def kernel(A, B, C, dt):
        return lti.lti_kernel_diagonal(A, B, C, dt, 5, discretization=method)

    def last(A, B, dt, u):
        return lti.lti_last_state(lti.discretize_diagonal(A, B, dt, method), u)

    u = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kernel, arguments)
    assert torch.autograd.gradcheck(last, (*arguments[:2], arguments[3], u))
    # the series of (e^z − 1)/z
    small = torch.tensor([1e-6, 1e-5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda A, B, C: kernel(A, B, C, small), arguments[:3], atol=1e-9)


def test_convolution_gradients():
    u = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    for taps in (7, 4, 9):
        kernel = torch.randn(3, taps, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lti.fft_convolution, (u, kernel))
        assert torch.autograd.gradgradcheck(lti.fft_convolution, (u, kernel))


def test_bad_input_is_refused():
    A, B, C, dt = system(2, 3, 0)
    for call in (
        lambda: lti.lti_kernel_diagonal(A, B, C, dt, 0),
        lambda: lti.lti_kernel_diagonal(A, B, C, -dt, 4),
        lambda: lti.lti_kernel_diagonal(A, B, C, dt * float("nan"), 4),
        lambda: lti.lti_kernel_diagonal(-A, B, C, dt, 4),
        lambda: lti.lti_kernel_diagonal(A, B, C, dt, 4, discretization="euler"),
        lambda: lti.fft_convolution(torch.ones(1, 2, 3), torch.ones(3, 3)),
    ):
        with pytest.raises(ValueError):
            call()
