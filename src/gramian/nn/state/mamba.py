"""Mamba's block: gate, short convolution, selective scan."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.scan import selective
from gramian.nn.state.convolution import ShortConvolution, uniform_
from gramian.nn.state.mixing import log_uniform

EIG_RANGES = {(0, 1): "exp", (-1, 1): "signed"}


class MambaState(NamedTuple):
    """What a `Mamba` layer carries from one piece of a sequence to the next."""

    inputs: Float[Tensor, "batch inner width"]
    """The last inputs of the short convolution."""
    scan: Float[Tensor, "batch inner state"]
    """The state of the selective scan."""


class Mamba(nn.Module):
    """The Mamba block (without norm and residual), with the range of its decays as a choice.

    ``[x, z] = in_proj(u)``; ``x = silu(conv(x))``; step sizes, B and C are read off x; the selective scan's outputs,
    gated by silu(z), go through `out_proj`. The names and shapes of the parameters are those of the Hugging Face
    ``MambaMixer``.

    Args:
        channels: width of the sequence.
        state_size: states for each inner channel.
        expand: inner channels per channel.
        conv_width: taps of the causal convolution.
        dt_rank: rank of the step sizes' projection; channels / 16, rounded up, if not given.
        eig_range: ``(0, 1)``: decays Ā = exp(Δ A), as published; ``(-1, 1)``: Ā = 2 exp(Δ A) − 1, which lets the
            layer count modulo two.
        dt_range: step sizes start log-uniform between these.
        bias: whether the projections in and out have biases.
        conv_bias: whether the convolution has one.
        generator: of the initial weights.

    Raises:
        ValueError: another `eig_range`, or sizes below 1.

    Sources: Gu and Dao, "Mamba", 2023, section 3.4; Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through
    Negative Eigenvalues", 2024, section 4.

    >>> layer = Mamba(16, eig_range=(-1, 1))
    >>> y, state = layer(torch.randn(2, 10, 16))
    >>> y_next, state = layer.step(torch.randn(2, 16), state)
    >>> y_next.shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 16,
        expand: int = 2,
        conv_width: int = 4,
        dt_rank: int | None = None,
        eig_range: tuple[int, int] = (0, 1),
        dt_range: tuple[float, float] = (1e-3, 1e-1),
        bias: bool = False,
        conv_bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "state_size": state_size, "expand": expand, "conv_width": conv_width}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        if tuple(eig_range) not in EIG_RANGES:
            raise ValueError(f"eig_range={eig_range}: must be (0, 1) or (-1, 1)")
        self.eig_range = eig_range
        self.channels, self.state_size, self.inner = channels, state_size, expand * channels
        self.dt_rank = math.ceil(channels / 16) if dt_rank is None else dt_rank
        self.in_proj = nn.Linear(channels, 2 * self.inner, bias=bias)
        self.conv1d = ShortConvolution(self.inner, conv_width, bias=conv_bias)
        self.x_proj = nn.Linear(self.inner, self.dt_rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.inner)
        self.out_proj = nn.Linear(self.inner, channels, bias=bias)
        rates = torch.arange(1, state_size + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(rates.log().repeat(self.inner, 1))
        self.D = nn.Parameter(torch.ones(self.inner))
        for projection in (self.in_proj, self.x_proj, self.out_proj):
            uniform_(projection, projection.in_features**-0.5, generator)
        uniform_(self.conv1d, conv_width**-0.5, generator)
        uniform_(self.dt_proj, self.dt_rank**-0.5, generator)
        dt = log_uniform(self.inner, dt_range, generator).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def initial_state(self, batch: int) -> MambaState:
        """Zeros."""
        return MambaState(self.conv1d.initial_state(batch), self.D.new_zeros(batch, self.inner, self.state_size))

    def forward(
        self, x: Float[Tensor, "batch length channels"], state: MambaState | None = None
    ) -> tuple[Float[Tensor, "batch length channels"], MambaState]:
        """Outputs, and the state to go on from."""
        if state is None:
            state = self.initial_state(x.shape[0])
        x, z = self.in_proj(x).mT.chunk(2, 1)
        x, inputs = self.conv1d(x, state.inputs, silu=True)
        dt, B, C = self._coefficients(x.mT)
        y, scanned = selective.selective_scan(
            x,
            dt.mT,
            -torch.exp(self.A_log.float()),
            B.mT,
            C.mT,
            self.D,
            z,
            self.dt_proj.bias,
            softplus=True,
            eig=EIG_RANGES[tuple(self.eig_range)],
            state=state.scan,
            return_state=True,
        )
        return self.out_proj(y.mT), MambaState(inputs, scanned)

    def step(
        self, x: Float[Tensor, "batch channels"], state: MambaState | None = None
    ) -> tuple[Float[Tensor, "batch channels"], MambaState]:
        """One element of the sequence."""
        if state is None:
            state = self.initial_state(x.shape[0])
        x, z = self.in_proj(x).chunk(2, -1)
        x, inputs = self.conv1d(x[..., None], state.inputs, silu=True)
        x = x[..., 0]
        dt, B, C = self._coefficients(x)
        y, scanned = selective.selective_scan_step(
            state.scan,
            x,
            dt,
            -torch.exp(self.A_log.float()),
            B,
            C,
            self.D,
            z,
            self.dt_proj.bias,
            softplus=True,
            eig=EIG_RANGES[tuple(self.eig_range)],
        )
        return self.out_proj(y), MambaState(inputs, scanned)

    def _coefficients(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step sizes (their bias left to the scan), B and C, channels last."""
        dt, B, C = self.x_proj(x).split((self.dt_rank, self.state_size, self.state_size), -1)
        return F.linear(dt, self.dt_proj.weight), B, C
