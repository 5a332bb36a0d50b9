import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from gramian.linalg import hippo
from gramian.linalg.scan import dplr, lti

DOUBLE = torch.float64


def system(channels, half, seed, tied=True):
    """Λ, P, Q, B, C, dt."""
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return torch.randn(channels, half, dtype=torch.complex128, generator=generator)

    poles = draw()
    poles = torch.complex(-poles.real.abs() - 0.2, 10 * poles.imag)
    P = draw()
    Q = P if tied else P + 0.1 * draw()
    return poles, P, Q, draw(), draw(), 0.02 + 0.1 * torch.rand(channels, dtype=DOUBLE, generator=generator)


def dense(poles, P, Q, B):
    """A and B of one channel, both members of every pair."""
    poles, P, Q, B = (torch.cat([t, t.conj()]).resolve_conj() for t in (poles, P, Q, B))
    return torch.diag(poles) - torch.outer(P, Q.conj()), B


def recurrence(poles, P, Q, B, C, dt, length):
    """The impulse response by a dense matrix, one product a step; its bilinear rule is scipy's."""
    A, inputs = dense(poles, P, Q, B)
    row = torch.cat([C, C.conj()]).resolve_conj()
    decay, drive, *_ = signal.cont2discrete(
        (A.numpy(), inputs[:, None].numpy(), row[None].numpy(), np.zeros((1, 1))), float(dt), "bilinear"
    )
    # its drive, dt (I − dt A/2)⁻¹ B, is ours
    x, out = drive[:, 0], []
    for _ in range(length):
        out.append(float((row.numpy() @ x).real))
        x = decay @ x
    return torch.tensor(out, dtype=DOUBLE)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 70), st.booleans(), st.sampled_from(["kernel", "torch"]))
@settings(max_examples=40)
def test_kernel_is_the_recurrences_impulse_response(channels, half, length, tied, backend):
    *vectors, dt = system(channels, half, length, tied)
    kernel = dplr.lti_kernel_dplr(*vectors, dt, length, backend=backend)
    expected = torch.stack([recurrence(*(v[c] for v in vectors), dt[c], length) for c in range(channels)])
    assert torch.allclose(kernel, expected, rtol=1e-9, atol=1e-10 * float(1 + expected.abs().max()))


def test_nothing_low_rank_is_the_diagonal_kernel():
    poles, P, _, B, C, dt = system(2, 4, 0)
    zero = torch.zeros_like(P)
    ours = dplr.lti_kernel_dplr(poles, zero, zero, B, C, dt, 50)
    assert torch.allclose(ours, lti.lti_kernel_diagonal(poles, B, C, dt, 50, discretization="bilinear"), atol=1e-12)


@given(st.integers(1, 3), st.integers(1, 300), st.integers(1, 40))
@settings(max_examples=20)
def test_cauchy_sums_are_their_definition(channels, half, length):
    generator = torch.Generator().manual_seed(half)
    poles, *_, dt = system(channels, half, half)
    w = torch.randn(channels, 4, half, dtype=torch.complex128, generator=generator)
    half_angle = np.pi * torch.arange(length // 2 + 1, dtype=DOUBLE) / length
    g = 2j * torch.sin(half_angle)
    c = (torch.cos(half_angle) * dt[:, None])[:, None]
    expected = sum(
        (w_[..., None] / (g - c[:, :, None] * p[:, None, :, None])).sum(2)
        for w_, p in ((w, poles), (w.conj(), poles.conj()))
    )
    for backend in ("kernel", "torch"):
        ours = dplr.cauchy_sums(w, poles, dt, length, backend=backend)
        assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [1, 6, 7, 300])
@pytest.mark.parametrize("backend", ["kernel", "torch"])
def test_gradients_of_the_sums(length, backend):
    poles, *_, dt = system(2, 3, 1)
    w = torch.randn(2, 4, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
    leaves = [t.clone().requires_grad_() for t in (w, poles, dt)]
    # a random projection of many outputs keeps the number of differences small
    outer = torch.randn(length // 2 + 1, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(3))
    assert torch.autograd.gradcheck(lambda *t: dplr.cauchy_sums(*t, length, backend=backend) @ outer, leaves)


def test_gradients_of_the_kernel():
    leaves = [t.clone().requires_grad_() for t in system(2, 2, 4, tied=False)]
    for folded in (False, True):
        assert torch.autograd.gradcheck(lambda *t, f=folded: dplr.lti_kernel_dplr(*t, 9, folded=f), leaves)


@pytest.mark.parametrize("length", [1, 6, 7, 300])
def test_the_fused_spectrum_is_the_one_of_the_sums(length):
    poles, *_, dt = system(2, 3, 1)
    w = torch.randn(2, 4, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
    found = []
    for backend in ("kernel", "torch"):
        leaves = [t.clone().requires_grad_() for t in (w, poles, dt)]
        spectrum = dplr.low_rank_spectrum(*leaves, length, backend=backend)
        outer = torch.randn(spectrum.shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(3))
        found.append([spectrum.detach(), *torch.autograd.grad(spectrum, leaves, outer)])
    for kernel, plain in zip(*found, strict=True):
        assert torch.allclose(kernel, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("operator", [dplr.cauchy_sums_op, dplr.low_rank_spectrum_op])
def test_operators_are_well_formed(operator):
    poles, *_, dt = system(2, 3, 5)
    w = torch.randn(2, 4, 3, 2, dtype=DOUBLE, requires_grad=True)
    torch.library.opcheck(operator, (w, torch.view_as_real(poles), dt, 8))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40), st.integers(0, 40))
@settings(max_examples=25)
def test_state_carried_between_pieces(channels, half, first, second):
    poles, P, Q, B, C, dt = system(channels, half, first)
    discrete = dplr.discretize_low_rank(poles, P, Q, B, dt)
    u = torch.randn(2, channels, first + second, dtype=DOUBLE, generator=torch.Generator().manual_seed(second))
    state, outputs = torch.zeros(2, channels, half, dtype=torch.complex128), []
    states = []
    for t in range(first + second):
        y, state = dplr.low_rank_step(discrete, u[..., t], state, C)
        outputs.append(y)
        states.append(state)
    y = torch.stack(outputs, -1)
    whole = lti.fft_convolution(u, dplr.lti_kernel_dplr(poles, P, Q, B, C, dt, first + second))
    scale = float(1 + y.abs().max())
    assert torch.allclose(whole, y, atol=1e-9 * scale)
    carried = dplr.low_rank_last_state(discrete, u[..., :first])
    assert torch.allclose(carried, states[first - 1], atol=1e-9 * scale)
    if second:
        folded = dplr.fold_output(discrete, C, second)
        tail = lti.fft_convolution(
            u[..., first:], dplr.lti_kernel_dplr(poles, P, Q, B, folded, dt, second, folded=True)
        )
        tail = tail + dplr.low_rank_state_response(discrete, folded, carried, dt, second)
        assert torch.allclose(tail, y[..., first:], atol=1e-9 * scale)
        assert torch.allclose(
            dplr.low_rank_last_state(discrete, u[..., first:], carried), state, atol=1e-9 * scale
        )  # fmt: skip


def test_dense_form_and_its_coordinates():
    poles, P, Q, B, _, dt = system(2, 3, 6, tied=False)
    power, drive = dplr.discretize_low_rank(poles, P, Q, B, dt).dense()
    for c in range(2):
        A, inputs = dense(poles[c], P[c], Q[c], B[c])
        identity = torch.eye(6, dtype=torch.complex128)
        step = torch.linalg.solve(identity - dt[c] / 2 * A, identity + dt[c] / 2 * A)
        x = torch.randn(3, dtype=torch.complex128, generator=torch.Generator().manual_seed(7))
        moved = (step @ torch.cat([x, x.conj()]))[:3]
        assert torch.allclose(dplr.complex_coordinates(power[c] @ dplr.real_coordinates(x)), moved)
        driven = torch.linalg.solve(identity - dt[c] / 2 * A, dt[c] * inputs)[:3]
        assert torch.allclose(dplr.complex_coordinates(drive[c]), driven)


def test_folding_is_undone():
    poles, P, Q, B, C, dt = system(3, 4, 8)
    discrete = dplr.discretize_low_rank(poles, P, Q, B, dt)
    for length in (1, 5, 64):
        folded = dplr.fold_output(discrete, C, length)
        assert torch.allclose(dplr.unfold_output(discrete, folded, length), C, atol=1e-9)
    assert not torch.allclose(folded, dplr.fold_output(discrete, C, 5))


def test_single_precision_follows_and_long_kernels_stay_exact():
    poles, _, P, B = hippo.legs_normal_plus_low_rank(64)
    C = torch.randn(1, 32, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    low = [t[None].cfloat() for t in (poles, P, P, B)] + [C]
    single = dplr.lti_kernel_dplr(*low, torch.tensor([0.1]), 16384)
    double = dplr.lti_kernel_dplr(*(t.cdouble() for t in low), torch.tensor([0.1]).double(), 16384)
    assert single.dtype == torch.float32
    assert double.dtype == DOUBLE
    assert float((single - double).abs().max() / double.abs().max()) < 1e-6


@pytest.mark.parametrize("change", [
    {"length": 0}, {"dt": 0.0}, {"dt": float("nan")}, {"dt": float("inf")}, {"pole": 0.1}, {"backend": "fast"},
])  # fmt: skip
def test_bad_input_is_refused(change):
    poles, P, Q, B, C, dt = system(1, 2, 0)
    dt = torch.full_like(dt, change.get("dt", 0.1))
    poles = torch.complex(torch.full_like(poles.real, change.get("pole", -0.5)), poles.imag)
    arguments = (poles, P, Q, B, C, dt, change.get("length", 8))
    with pytest.raises(ValueError):
        dplr.lti_kernel_dplr(*arguments, backend=change.get("backend", "auto"))


def test_discretization_and_sums_refuse_too():
    poles, P, Q, B, _, dt = system(1, 2, 0)
    with pytest.raises(ValueError, match="dt must be positive"):
        dplr.discretize_low_rank(poles, P, Q, B, -dt)
    with pytest.raises(ValueError, match="length=0"):
        dplr.cauchy_sums(torch.ones(1, 4, 2, dtype=torch.complex128), poles, dt, 0)
