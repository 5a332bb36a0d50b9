r"""The selective scan: a diagonal recurrence whose step sizes, inputs and readouts change with time.

For each channel d and state coordinate n

    Δ_t = dt_t                        (softplus(dt_t + bias_d) if `softplus`)
    h_t = Ā_t h_{t−1} + Δ_t B_t u_t,   Ā_t = exp(Δ_t A)   or, signed,   2 exp(Δ_t A) − 1
    y_t = (Σ_n C_t h_t + D u_t) · silu(z_t)

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, algorithm 2. The
signed decay, whose eigenvalues lie in (−1, 1) instead of (0, 1): Grazzi et al., "Unlocking State-Tracking in Linear
RNNs Through Negative Eigenvalues", 2024.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.scan.selective_ops import scan_forward

EIGENVALUES = ("exp", "signed")
"""The two ways to turn a step size into a decay: in (0, 1), or in (−1, 1)."""

Coefficients = Float[Tensor, "batch state length"] | Float[Tensor, "batch groups state length"]
Sequence = Float[Tensor, "batch channels length"]


def selective_scan(
    u: Float[Tensor, "batch channels length"],
    dt: Float[Tensor, "batch channels length"],
    A: Float[Tensor, "channels state"],
    B: Coefficients,
    C: Coefficients,
    D: Float[Tensor, "channels"] | None = None,
    z: Float[Tensor, "batch channels length"] | None = None,
    dt_bias: Float[Tensor, "channels"] | None = None,
    softplus: bool = False,
    eig: str = "exp",
    reverse: bool = False,
    state: Float[Tensor, "batch channels state"] | None = None,
    return_state: bool = False,
) -> (
    Float[Tensor, "batch channels length"]
    | tuple[Float[Tensor, "batch channels length"], Float[Tensor, "batch channels state"]]
):
    """Run the selective scan over whole sequences; differentiable in every tensor.

    On the CPU one fused kernel keeps the state at every 64th step only and recomputes the others in the backward
    pass, so memory grows with the inputs and not with inputs × state. Elsewhere the plain PyTorch form runs. Half
    precision is computed in float32. The gradient is deterministic, whatever the number of threads.

    Args:
        u: inputs.
        dt: step sizes, before bias and softplus.
        A: rates; negative ones forget.
        B: how inputs enter the state. With groups, channels are cut into that many equal runs, each with its B and C.
        C: how the state is read.
        D: weights of the inputs in the outputs.
        z: gates; the outputs are multiplied by silu(z).
        dt_bias: added to `dt`.
        softplus: whether step sizes pass through softplus.
        eig: ``"exp"`` or ``"signed"``.
        reverse: scan from the last step to the first; the first state is then the one after the end.
        state: the state before the first step scanned; zeros if not given.
        return_state: also return the state after the last step scanned.

    Raises:
        ValueError: sizes that do not fit each other, an empty sequence, an unknown `eig`.
        TypeError: tensors that are not real floating point.

    >>> ones = torch.ones(1, 1, 4)
    >>> selective_scan(ones, ones, torch.zeros(1, 1), ones, ones)  # no forgetting: a running sum
    tensor([[[1., 2., 3., 4.]]])
    """
    B, C = (t[:, None] if t.dim() == 3 else t for t in (B, C))
    _check(u, dt, A, B, C, D, z, dt_bias, state, eig)
    if u.device.type != "cpu":
        y, last = selective_scan_reference(u, dt, A, B, C, D, z, dt_bias, softplus, eig, reverse, state, True)
        return (y, last) if return_state else y
    tensors = (u, dt, A, B, C, D, z, dt_bias, state)
    dtype = _working_dtype(tensors)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    tensors = (None if t is None else t.to(dtype) for t in tensors)
    y, last, _ = scan_forward(*tensors, softplus, eig == "signed", reverse, keep)
    y = y.to(u.dtype)
    return (y, last) if return_state else y


def selective_scan_step(
    state: Float[Tensor, "batch channels state"],
    u: Float[Tensor, "batch channels"],
    dt: Float[Tensor, "batch channels"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "batch state"] | Float[Tensor, "batch groups state"],
    C: Float[Tensor, "batch state"] | Float[Tensor, "batch groups state"],
    D: Float[Tensor, "channels"] | None = None,
    z: Float[Tensor, "batch channels"] | None = None,
    dt_bias: Float[Tensor, "channels"] | None = None,
    softplus: bool = False,
    eig: str = "exp",
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch channels state"]]:
    """One step of `selective_scan`: returns the outputs and the next state."""
    tensors = (u, dt, A, B, C, D, z, dt_bias, state)
    if eig not in EIGENVALUES:
        raise ValueError(f"eig={eig!r}: must be one of {', '.join(EIGENVALUES)}")
    out_dtype, dtype = u.dtype, _working_dtype(tensors)
    u, dt, A, B, C, D, z, dt_bias, state = (None if t is None else t.to(dtype) for t in tensors)
    B, C = (_per_channel(t[:, None] if t.dim() == 2 else t, u.shape[1]) for t in (B, C))
    dt = dt if dt_bias is None else dt + dt_bias
    dt = F.softplus(dt) if softplus else dt
    state = _decay(dt[..., None], A, eig) * state + (dt * u)[..., None] * B
    y = (state * C).sum(-1)
    y = y if D is None else y + D * u
    y = y if z is None else y * F.silu(z)
    return y.to(out_dtype), state


def selective_scan_reference(
    u: Float[Tensor, "batch channels length"],
    dt: Float[Tensor, "batch channels length"],
    A: Float[Tensor, "channels state"],
    B: Coefficients,
    C: Coefficients,
    D: Float[Tensor, "channels"] | None = None,
    z: Float[Tensor, "batch channels length"] | None = None,
    dt_bias: Float[Tensor, "channels"] | None = None,
    softplus: bool = False,
    eig: str = "exp",
    reverse: bool = False,
    state: Float[Tensor, "batch channels state"] | None = None,
    return_state: bool = False,
) -> (
    Float[Tensor, "batch channels length"]
    | tuple[Float[Tensor, "batch channels length"], Float[Tensor, "batch channels state"]]
):
    """`selective_scan` in plain PyTorch, step by step: the oracle, and what runs where there is no kernel.

    Differentiable any number of times; memory grows with length × channels × state.
    """
    B, C = (t[:, None] if t.dim() == 3 else t for t in (B, C))
    _check(u, dt, A, B, C, D, z, dt_bias, state, eig)
    tensors = (u, dt, A, B, C, D, z, dt_bias, state)
    out_dtype, dtype = u.dtype, _working_dtype(tensors)
    u, dt, A, B, C, D, z, dt_bias, state = (None if t is None else t.to(dtype) for t in tensors)
    delta = dt if dt_bias is None else dt + dt_bias[:, None]
    delta = F.softplus(delta) if softplus else delta
    h = u.new_zeros((*u.shape[:2], A.shape[1])) if state is None else state
    # unbind and stack: indexing step by step would make the backward pass quadratic in the length
    steps = list(zip(delta.unbind(-1), (delta * u).unbind(-1), B.unbind(-1), C.unbind(-1), strict=True))
    outputs = []
    for step, x, B_t, C_t in reversed(steps) if reverse else steps:
        h = _decay(step[..., None], A, eig) * h + x[..., None] * _per_channel(B_t, u.shape[1])
        outputs.append((h * _per_channel(C_t, u.shape[1])).sum(-1))
    y = torch.stack(outputs[::-1] if reverse else outputs, -1)
    y = y if D is None else y + D[:, None] * u
    y = y if z is None else y * F.silu(z)
    y = y.to(out_dtype)
    return (y, h) if return_state else y


def _decay(dt: Tensor, A: Tensor, eig: str) -> Tensor:
    """Ā."""
    decay = torch.exp(dt * A)
    return 2 * decay - 1 if eig == "signed" else decay


def _per_channel(coefficients: Tensor, channels: int) -> Tensor:
    """(batch, groups, state) → (batch, channels, state)."""
    return coefficients.repeat_interleave(channels // coefficients.shape[1], 1)


def _working_dtype(tensors: tuple[Tensor | None, ...]) -> torch.dtype:
    """float64 if any tensor is, else float32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def _check(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
    eig: str,
) -> None:
    """Raise what `selective_scan` promises to raise; B and C have groups here."""
    if eig not in EIGENVALUES:
        raise ValueError(f"eig={eig!r}: must be one of {', '.join(EIGENVALUES)}")
    if u.dim() != 3 or A.dim() != 2 or B.dim() != 4:
        raise ValueError(
            f"u must be (batch, channels, length), A (channels, state), B (batch, [groups,] state, length); "
            f"got {tuple(u.shape)}, {tuple(A.shape)}, {tuple(B.shape)}"
        )
    batch, channels, length = u.shape
    groups, size = B.shape[1], A.shape[1]
    if length < 1 or size < 1 or groups < 1 or channels % groups:
        raise ValueError(
            f"length, state size and groups must be positive and groups must divide channels; "
            f"got length {length}, state size {size}, {groups} groups for {channels} channels"
        )
    expected = {
        "dt": (dt, (batch, channels, length)),
        "A": (A, (channels, size)),
        "B": (B, (batch, groups, size, length)),
        "C": (C, (batch, groups, size, length)),
        "D": (D, (channels,)),
        "z": (z, (batch, channels, length)),
        "dt_bias": (dt_bias, (channels,)),
        "state": (state, (batch, channels, size)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; with u {tuple(u.shape)} it must be {shape}")
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} is {tensor.dtype}; the selective scan takes real floating point")
    if not u.is_floating_point():
        raise TypeError(f"u is {u.dtype}; the selective scan takes real floating point")
