"""Diagonal-plus-low-rank systems x′ = (Λ − P Q*) x + B u: Cauchy kernel, O(states) step and the state between calls.

Of each conjugate pair one entry is given: a vector v of `half` entries stands for (v, v̄), and the output is
y = 2 Re Σ C x. Everything is discretized by the bilinear rule and computed in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from gramian.linalg.scan.dplr_ops import cauchy_sums_op, half_angles, low_rank_spectrum_op

BACKENDS = ("auto", "kernel", "torch")


@dataclass(frozen=True)
class DiscreteLowRank:
    """x ← Ā x + B̄ u for A = Λ − P Q*, by the bilinear rule, without ever forming Ā.

    Ā = (2/dt − A)⁻¹ (2/dt + A) and B̄ = (2/dt − A)⁻¹ 2B; the inverse is diagonal plus rank one (Woodbury).

    Attributes:
        eigenvalues: Λ, (channels, half), complex128; P, Q and B have its shape.
        rate: 2/dt, (channels, 1).
        resolvent: 1/(2/dt − Λ).
        correction: resolvent · P / (1 + Q* resolvent P), which takes the low-rank part back.
    """

    eigenvalues: Tensor
    P: Tensor
    Q: Tensor
    B: Tensor
    rate: Tensor
    resolvent: Tensor
    correction: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """(2/dt + A) x, for x (…, channels, half)."""
        return (self.rate + self.eigenvalues) * x - self.P * _pair(self.Q.conj(), x)

    def solve(self, x: Tensor) -> Tensor:
        """(2/dt − A)⁻¹ x."""
        x = self.resolvent * x
        return x - self.correction * _pair(self.Q.conj(), x)

    def advance(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        """Ā x, or Ā x + B̄ u: O(half) operations a channel."""
        driven = self.apply(x)
        return self.solve(driven if u is None else driven + 2 * self.B * u[..., None])

    def dense(self) -> tuple[Tensor, Tensor]:
        """Ā and B̄ on the real coordinates (Re x, Im x): (channels, 2 half, 2 half) and (channels, 2 half)."""
        half = self.eigenvalues.shape[-1]
        identity = torch.eye(half, dtype=torch.complex128, device=self.eigenvalues.device)
        units = torch.cat([identity, 1j * identity])[:, None]  # one real coordinate at a time
        columns = self.advance(units.expand(-1, self.eigenvalues.shape[0], -1))
        return real_coordinates(columns).permute(1, 2, 0), real_coordinates(self.solve(2 * self.B))


def _pair(v: Tensor, x: Tensor) -> Tensor:
    """Σ v x over both members of every pair, kept as an axis of size one."""
    return 2 * (v * x).real.sum(-1, keepdim=True)


def real_coordinates(x: Complex[Tensor, "*batch half"]) -> Float[Tensor, "*batch states"]:
    """(Re x, Im x)."""
    return torch.cat([x.real, x.imag], -1)


def complex_coordinates(x: Float[Tensor, "*batch states"]) -> Complex[Tensor, "*batch half"]:
    """The inverse of `real_coordinates`."""
    real, imaginary = x.chunk(2, -1)
    return torch.complex(real.contiguous(), imaginary.contiguous())


def discretize_low_rank(
    eigenvalues: Complex[Tensor, "channels half"],
    P: Complex[Tensor, "channels half"],
    Q: Complex[Tensor, "channels half"],
    B: Complex[Tensor, "channels half"],
    dt: Float[Tensor, " channels"],
) -> DiscreteLowRank:
    """One bilinear step of length dt of x′ = (Λ − P Q*) x + B u.

    Raises:
        ValueError: a dt that is not positive and finite, or an eigenvalue with Re ≥ 0.
    """
    _check(eigenvalues, dt)
    eigenvalues, P, Q, B = (t.to(torch.complex128) for t in (eigenvalues, P, Q, B))
    rate = 2 / dt.to(torch.float64)[:, None]
    resolvent = 1 / (rate - eigenvalues)
    scaled = resolvent * P
    correction = scaled / (1 + _pair(Q.conj(), scaled))
    return DiscreteLowRank(eigenvalues, P, Q, B, rate, resolvent, correction)


def _check(eigenvalues: Tensor, dt: Tensor) -> None:
    if not bool((torch.isfinite(dt) & (dt > 0)).all()):
        raise ValueError(f"dt must be positive and finite; its smallest value is {float(dt.detach().min()):g}")
    if not bool((eigenvalues.detach().real < 0).all()):
        largest = float(eigenvalues.detach().real.max())
        raise ValueError(f"every eigenvalue needs Re < 0, or its memory never fades; the largest here is {largest:g}")


def cauchy_sums(
    weights: Complex[Tensor, "channels 4 half"],
    eigenvalues: Complex[Tensor, "channels half"],
    dt: Float[Tensor, " channels"],
    length: int,
    *,
    backend: str = "auto",
) -> Complex[Tensor, "channels 4 frequencies"]:
    """Four Cauchy sums Σₙ wₙ/(2i sin θ/2 − dt cos θ/2 λₙ) at θ = 2πk/length, k = 0 … ⌊length/2⌋.

    Each runs over both members of every conjugate pair. Up to the factor dt cos θ/2 this is Σ wₙ/(g − λₙ) at
    g = (2/dt)(1 − z)/(1 + z), z = e^{−iθ}; without that factor nothing is singular at z = −1.

    Args:
        backend: ``kernel`` (compiled, CPU: nothing of size half × frequencies is stored), ``torch`` (any device,
            differentiable twice), or ``auto``: the kernel on a CPU.

    Raises:
        ValueError: an unknown backend, length < 1, a dt that is not positive, or an eigenvalue with Re ≥ 0.
    """
    w, poles, step, backend = _as_real(weights, eigenvalues, dt, length, backend)
    if backend == "kernel":
        return torch.view_as_complex(cauchy_sums_op(w, poles, step, length))
    sines, cosines = (t.to(weights.device) for t in half_angles(length))
    scaled = poles * step[:, None, None]
    x = -cosines * scaled[..., :1]
    shift = cosines * scaled[..., 1:]
    y1, y2 = 2 * sines - shift, 2 * sines + shift
    r1, r2 = 1 / (x.square() + y1.square()), 1 / (x.square() + y2.square())
    # a pole and its partner, as four real numbers
    p, q = w.unbind(-1)
    real = p @ (x * (r1 + r2)) + q @ (y1 * r1 - y2 * r2)
    imaginary = q @ (x * (r1 - r2)) - p @ (y1 * r1 + y2 * r2)
    return torch.complex(real, imaginary)


def low_rank_spectrum(
    weights: Complex[Tensor, "channels 4 half"],
    eigenvalues: Complex[Tensor, "channels half"],
    dt: Float[Tensor, " channels"],
    length: int,
    *,
    backend: str = "auto",
) -> Complex[Tensor, "channels frequencies"]:
    """The spectrum dt e^{iθ/2} (k₀ − a k₁ k₂ / (1 + a k₃)), a = dt cos θ/2, of four `cauchy_sums` k at each θ.

    The compiled kernel keeps no sum: backward it computes them anew, a channel at a time.

    Args:
        weights: of the sums for C B, C P, Q B and Q P.
        backend: of `cauchy_sums`.

    Raises:
        ValueError: as `cauchy_sums`.
    """
    w, poles, step, backend = _as_real(weights, eigenvalues, dt, length, backend)
    if backend == "kernel":
        return torch.view_as_complex(low_rank_spectrum_op(w, poles, step, length))
    k_CB, k_CP, k_QB, k_QP = cauchy_sums(weights, eigenvalues, dt, length, backend=backend).unbind(1)
    sines, cosines = (t.to(weights.device) for t in half_angles(length))
    scaled = step[:, None] * cosines
    return step[:, None] * torch.complex(cosines, sines) * (k_CB - scaled * k_CP * k_QB / (1 + scaled * k_QP))


def _as_real(
    weights: Tensor, eigenvalues: Tensor, dt: Tensor, length: int, backend: str
) -> tuple[Tensor, Tensor, Tensor, str]:
    """Check everything; weights and poles as pairs of real numbers, the steps in double, and the chosen backend."""
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if length < 1:
        raise ValueError(f"length={length} must be at least 1")
    _check(eigenvalues, dt)
    if backend == "auto":
        backend = "kernel" if weights.device.type == "cpu" else "torch"
    if backend == "kernel" and weights.device.type != "cpu":
        raise ValueError(f"the compiled kernel runs on the CPU; the weights are on {weights.device}")
    # an expanded or conjugated view has no plain memory for view_as_real
    w, poles = (torch.view_as_real(t.to(torch.complex128).resolve_conj().contiguous()) for t in (weights, eigenvalues))
    return w, poles, dt.to(torch.float64), backend


def lti_kernel_dplr(
    eigenvalues: Complex[Tensor, "channels half"],
    P: Complex[Tensor, "channels half"],
    Q: Complex[Tensor, "channels half"],
    B: Complex[Tensor, "channels half"],
    C: Complex[Tensor, "channels half"],
    dt: Float[Tensor, " channels"],
    length: int,
    *,
    folded: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "channels {length}"]:
    r"""The convolution kernel K_l = C Āˡ B̄, l = 0 … length − 1, of x′ = (Λ − P Q*) x + B u under the bilinear rule.

    Its discrete Fourier transform is a truncated generating function, four Cauchy sums a frequency:

    \( \hat K(z) = \tilde C (I - \bar A z)^{-1} \bar B = \frac{2}{1+z} \left( k_{CB} - k_{CP} (1 + k_{QP})^{-1}
    k_{QB} \right), \quad \tilde C = C (I - \bar A^{L}), \)

    at the roots of unity z, with k_{vw} = Σ v w/(g − λ) and g = (2/dt)(1 − z)/(1 + z). The factor 1 + z is
    cancelled analytically, so z = −1 needs no care.

    Args:
        eigenvalues, P, Q, B, C: one of each conjugate pair; Q = P keeps the system stable.
        folded: whether C is given as C̃ already, for this very length (`fold_output`); otherwise it is folded
            here, with O(log length) products of dense matrices a channel.
        backend: of `cauchy_sums`.

    Returns:
        float64 if C or dt is double, else float32 (computed in double precision).

    Raises:
        ValueError: length < 1, dt ≤ 0 or not finite, Re Λ ≥ 0, or an unknown backend.

    Source: Gu et al., "Efficiently Modeling Long Sequences with Structured State Spaces" (arXiv 2111.00396),
    algorithm 1 and appendix C.3.
    """
    if length < 1:
        raise ValueError(f"length={length} must be at least 1")
    double = C.dtype == torch.complex128 or dt.dtype == torch.float64
    if not folded:
        C = fold_output(discretize_low_rank(eigenvalues, P, Q, B, dt), C, length)
    kind = torch.complex128
    P, Q, B, C = P.to(kind), Q.to(kind).conj(), B.to(kind), C.to(kind)
    weights = torch.stack([C * B, C * P, Q * B, Q * P], 1)
    kernel = torch.fft.irfft(low_rank_spectrum(weights, eigenvalues, dt, length, backend=backend), n=length)
    return kernel if double else kernel.float()


def fold_output(
    system: DiscreteLowRank, C: Complex[Tensor, "channels half"], length: int
) -> Complex[Tensor, "channels half"]:
    """C̃ = C (I − Āᴸ): the output vector whose infinite response is cut off after `length` steps."""
    row = _as_row(C)
    powered, power = row[:, None], system.dense()[0]
    remaining = length
    while remaining:
        if remaining % 2:
            powered = powered @ power
        remaining //= 2
        if remaining:
            power = power @ power
    return _from_row(row - powered[:, 0])


def unfold_output(
    system: DiscreteLowRank, folded: Complex[Tensor, "channels half"], length: int
) -> Complex[Tensor, "channels half"]:
    """The inverse of `fold_output`: C = C̃ (I − Āᴸ)⁻¹.

    Raises:
        torch.linalg.LinAlgError: a state that does not decay at all over `length` steps.
    """
    power = torch.linalg.matrix_power(system.dense()[0], length)
    identity = torch.eye(power.shape[-1], dtype=power.dtype, device=power.device)
    return _from_row(torch.linalg.solve((identity - power).mT, _as_row(folded)))


def _as_row(C: Tensor) -> Tensor:
    """The real row c with c · (Re x, Im x) = 2 Re Σ C x."""
    C = C.to(torch.complex128)
    return 2 * torch.cat([C.real, -C.imag], -1)


def _from_row(row: Tensor) -> Tensor:
    return complex_coordinates(row / 2).conj().resolve_conj()


def low_rank_state_response(
    system: DiscreteLowRank,
    folded: Complex[Tensor, "channels half"],
    state: Complex[Tensor, "batch channels half"],
    dt: Float[Tensor, " channels"],
    length: int,
) -> Float[Tensor, "batch channels {length}"]:
    """What a state before the first input contributes: y_t = C Āᵗ⁺¹ x, t = 0 … length − 1.

    It is the kernel of the same system with the input vector (2/dt + A) x / 2.

    Args:
        folded: C̃ for this length.
    """
    batch, channels, half = state.shape
    inputs = system.apply(state.to(torch.complex128)) / 2
    vectors = [t.expand(batch, -1, -1) for t in (system.eigenvalues, system.P, system.Q, inputs, folded)]
    flat = [t.reshape(batch * channels, half) for t in vectors]
    kernel = lti_kernel_dplr(*flat, dt.double().repeat(batch), length, folded=True)
    return kernel.unflatten(0, (batch, channels))


def low_rank_last_state(
    system: DiscreteLowRank,
    u: Float[Tensor, "batch channels length"],
    state: Complex[Tensor, "batch channels half"] | None = None,
) -> Complex[Tensor, "batch channels half"]:
    """The state after the last input, Āᴸ x + Σ_t Āᴸ⁻¹⁻ᵗ B̄ u_t, in the input's precision (float32 at least).

    The length is cut into √length blocks: within a block one matrix product, from block to block Ā to the
    block's length.
    """
    batch, channels, length = u.shape
    power, response = system.dense()
    columns, block = response[..., None], 1
    while block * block < length:  # doubling: B̄, ĀB̄, …, then Ā to that power times all of them
        columns = torch.cat([columns, power @ columns], -1)
        power, block = power @ power, 2 * block
    blocks = -(-length // block)
    # zeros before the first input do nothing to a zero state, but would age a given one
    lead = blocks * block - length
    pieces = torch.nn.functional.pad(u.double(), (lead, 0)).unflatten(-1, (blocks, block)).flip(-1)
    gains = torch.einsum("bckt,cst->kbcs", pieces, columns)
    x = torch.zeros(batch, channels, response.shape[-1], dtype=torch.float64, device=u.device)
    for gain in gains:
        x = torch.einsum("cst,bct->bcs", power, x) + gain
    last = complex_coordinates(x)
    if state is not None:
        whole = torch.linalg.matrix_power(system.dense()[0], length)
        old = torch.einsum("cst,bct->bcs", whole, real_coordinates(state.to(torch.complex128)))
        last = last + complex_coordinates(old)
    return last if u.dtype == torch.float64 else last.to(torch.complex64)


def low_rank_step(
    system: DiscreteLowRank,
    u: Float[Tensor, "batch channels"],
    state: Complex[Tensor, "batch channels half"],
    C: Complex[Tensor, "channels half"],
) -> tuple[Float[Tensor, "batch channels"], Complex[Tensor, "batch channels half"]]:
    """One input: x ← Ā x + B̄ u, y = 2 Re Σ C x, in O(half) operations a channel; computed in double precision."""
    x = system.advance(state.to(torch.complex128), u.double())
    y = _pair(C.to(torch.complex128), x)[..., 0]
    return y.to(u.dtype), x.to(state.dtype)
