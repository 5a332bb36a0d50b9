"""Mamba-2's block: a projection, a short convolution, a matrix state a head that fades by one gate, a gated norm."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.scan import matrix_state
from gramian.nn.state.convolution import ShortConvolution, uniform_
from gramian.nn.state.mixing import log_uniform

__all__ = ["GatedRMSNorm", "Mamba2", "Mamba2State"]


class Mamba2State(NamedTuple):
    """What a `Mamba2` layer carries from one piece of a sequence to the next."""

    inputs: Float[Tensor, "batch convolved width"]
    """The last inputs of the short convolution."""
    memory: Float[Tensor, "batch heads state_size head_size"]
    """The matrix of each head."""


class GatedRMSNorm(nn.Module):
    r"""\(w \odot \mathrm{norm}(y \odot \mathrm{silu}(z))\), in `groups` equal runs of channels.

    Computed in float32 at least.

    Raises:
        ValueError: groups that do not divide the channels.
    """

    def __init__(self, channels: int, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        if groups < 1 or channels % groups:
            raise ValueError(f"groups={groups} must divide channels={channels}")
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(
        self, y: Float[Tensor, "*batch channels"], z: Float[Tensor, "*batch channels"]
    ) -> Float[Tensor, "*batch channels"]:
        wide = torch.promote_types(y.dtype, torch.float32)
        gated = (y.to(wide) * F.silu(z.to(wide))).unflatten(-1, (self.groups, -1))
        scaled = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.flatten(-2).to(z.dtype)


class Mamba2(nn.Module):
    r"""The Mamba-2 block (without the outer norm and residual).

    ``[z, x, B, C, dt] = in_proj(u)``; x, B and C pass a short causal convolution and SiLU. For each head h, with
    \(\Delta = \mathrm{softplus}(dt + b_h)\) and \(A = -e^{a_h}\),

    \[ S_t = e^{\Delta_t A} S_{t-1} + B_t (\Delta_t x_t)^T, \qquad y_t = S_t^T C_t + D_h x_t, \]

    and ``out_proj(norm(y · silu(z)))`` goes out. Heads of one group share B and C. The names and shapes of the
    parameters are those of the Hugging Face ``Mamba2Mixer``.

    Args:
        channels: width of the sequence.
        state_size: rows of each head's matrix state.
        head_size: channels of a head.
        expand: inner channels per channel; ``expand · channels / head_size`` heads.
        num_groups: groups of heads that share B and C (and a norm).
        conv_width: taps of the causal convolution.
        dt_range: step sizes start log-uniform between these.
        dt_limit: step sizes are held between these.
        bias: whether the projections in and out have biases.
        conv_bias: whether the convolution has one.
        norm_eps: of the gated norm.
        chunk: tokens between the states that the scan carries.
        generator: of the initial weights.

    Raises:
        ValueError: sizes below 1, heads that do not divide the inner channels, groups that do not divide the heads, or
            limits that are not 0 ≤ low < high.

    Source: Dao and Gu, "Transformers are SSMs", 2024, section 7.

    >>> layer = Mamba2(16, state_size=8, head_size=8)
    >>> y, state = layer(torch.randn(2, 10, 16))
    >>> y_next, state = layer.step(torch.randn(2, 16), state)
    >>> y_next.shape, state.memory.shape
    (torch.Size([2, 16]), torch.Size([2, 4, 8, 8]))
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 128,
        head_size: int = 64,
        expand: int = 2,
        num_groups: int = 1,
        conv_width: int = 4,
        dt_range: tuple[float, float] = (1e-3, 1e-1),
        dt_limit: tuple[float, float] = (0.0, math.inf),
        bias: bool = False,
        conv_bias: bool = True,
        norm_eps: float = 1e-5,
        chunk: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "channels": channels, "state_size": state_size, "head_size": head_size, "expand": expand,
            "num_groups": num_groups, "conv_width": conv_width,
        }  # fmt: skip
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        inner = expand * channels
        if inner % head_size or (inner // head_size) % num_groups:
            raise ValueError(
                f"head_size={head_size} must divide the {inner} inner channels, and num_groups={num_groups} the heads"
            )
        if not 0 <= dt_limit[0] < dt_limit[1]:
            raise ValueError(f"dt_limit={tuple(dt_limit)}: step sizes lie between 0 and what is larger")
        self.channels, self.state_size, self.head_size, self.inner = channels, state_size, head_size, inner
        self.num_heads, self.num_groups, self.chunk = inner // head_size, num_groups, chunk
        self.dt_limit = (float(dt_limit[0]), float(dt_limit[1]))
        convolved = inner + 2 * num_groups * state_size
        self.in_proj = nn.Linear(channels, inner + convolved + self.num_heads, bias=bias)
        self.conv1d = ShortConvolution(convolved, conv_width, bias=conv_bias)
        self.norm = GatedRMSNorm(inner, num_groups, norm_eps)
        self.out_proj = nn.Linear(inner, channels, bias=bias)
        for projection in (self.in_proj, self.out_proj):
            uniform_(projection, projection.in_features**-0.5, generator)
        uniform_(self.conv1d, conv_width**-0.5, generator)
        self.A_log = nn.Parameter(torch.empty(self.num_heads).uniform_(1, 16, generator=generator).log())
        self.D = nn.Parameter(torch.ones(self.num_heads))
        dt = log_uniform(self.num_heads, dt_range, generator).exp()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def initial_state(self, batch: int) -> Mamba2State:
        """Zeros; the memory in float32 at least."""
        wide = torch.promote_types(self.D.dtype, torch.float32)
        memory = self.D.new_zeros(batch, self.num_heads, self.state_size, self.head_size, dtype=wide)
        return Mamba2State(self.conv1d.initial_state(batch), memory)

    def forward(
        self, x: Float[Tensor, "batch length channels"], state: Mamba2State | None = None
    ) -> tuple[Float[Tensor, "batch length channels"], Mamba2State]:
        """Outputs, and the state to go on from."""
        if state is None:
            state = self.initial_state(x.shape[0])
        z, x, B, C, dt, inputs = self.coefficients(x, state.inputs)
        v = x.transpose(1, 2)
        dt = dt.mT[..., None]
        y, memory = matrix_state.matrix_state_scan(
            C.transpose(1, 2), B.transpose(1, 2), v.to(dt.dtype) * dt, dt[..., 0] * self._rates()[:, None],
            chunk=self.chunk, state=state.memory, return_state=True,
        )  # fmt: skip
        y = y + self.D[:, None, None] * v
        return self.read(y.transpose(1, 2).flatten(2), z), Mamba2State(inputs, memory)

    def step(
        self, x: Float[Tensor, "batch channels"], state: Mamba2State | None = None
    ) -> tuple[Float[Tensor, "batch channels"], Mamba2State]:
        """One element of the sequence."""
        if state is None:
            state = self.initial_state(x.shape[0])
        z, x, B, C, dt, inputs = self.coefficients(x[:, None], state.inputs)
        v, dt = x[:, 0], dt[:, 0]
        y, memory = matrix_state.matrix_state_step(
            state.memory, C[:, 0], B[:, 0], v.to(dt.dtype) * dt[..., None], dt * self._rates()
        )
        y = y + self.D[:, None] * v
        return self.read(y.flatten(1), z[:, 0]), Mamba2State(inputs, memory)

    def coefficients(
        self, u: Float[Tensor, "batch length channels"], inputs: Float[Tensor, "batch convolved width"]
    ) -> tuple[
        Float[Tensor, "batch length inner"],
        Float[Tensor, "batch length heads head_size"],
        Float[Tensor, "batch length groups state_size"],
        Float[Tensor, "batch length groups state_size"],
        Float[Tensor, "batch length heads"],
        Float[Tensor, "batch convolved width"],
    ]:
        """All that the recurrence needs of the sequence: z, x, B, C, step sizes, and the convolution's new state."""
        shared = self.num_groups * self.state_size
        z, mixed, dt = self.in_proj(u).split((self.inner, self.inner + 2 * shared, self.num_heads), -1)
        mixed, inputs = self.conv1d(mixed.mT, inputs, silu=True)
        x, B, C = mixed.mT.split((self.inner, shared, shared), -1)
        x = x.unflatten(-1, (self.num_heads, self.head_size))
        B, C = (t.unflatten(-1, (self.num_groups, self.state_size)) for t in (B, C))
        return z, x, B, C, self.step_sizes(dt), inputs

    def step_sizes(self, dt: Float[Tensor, "batch length heads"]) -> Float[Tensor, "batch length heads"]:
        """softplus(dt + bias) within the limits, in float32 at least."""
        dt = F.softplus(dt.to(torch.promote_types(dt.dtype, torch.float32)) + self.dt_bias)
        return dt.clamp(*self.dt_limit)

    def read(self, y: Float[Tensor, "*batch inner"], z: Float[Tensor, "*batch inner"]) -> Tensor:
        """What leaves the layer: gate, norm, projection."""
        return self.out_proj(self.norm(y, z))

    def _rates(self) -> Tensor:
        """A, one a head."""
        return -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))
