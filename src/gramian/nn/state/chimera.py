"""Selective two-dimensional state spaces over (variate, time), and the block with a slow and a fast head."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.scan.grid import two_state
from gramian.linalg.scan.grid.two_state import GridState
from gramian.nn.series.starts import redraw_
from gramian.nn.state.mixing import log_uniform

__all__ = ["SSM2D", "ChimeraBlock", "ChimeraState", "held"]

Grid = Float[Tensor, "batch variates length channels"]


def held(
    dt: Float[Tensor, "*cells channels"], log_rate: Float[Tensor, "channels state"]
) -> tuple[Float[Tensor, "*cells channels state"], Float[Tensor, "*cells channels state"]]:
    r"""Zero-order hold of h′ = −r h + u over a step dt: the decay exp(−dt r), and the gain (1 − decay)/r of u.

    A constant input through k steps of dt ends where one step of k dt ends.

    >>> decay, gain = held(torch.tensor([2.0]), torch.zeros(1, 1))
    >>> bool(torch.allclose(decay + gain, torch.ones(1, 1)))
    True
    """
    rate = log_rate.exp()
    exponent = -dt[..., None] * rate
    return exponent.exp(), -torch.expm1(exponent) / rate


class SSM2D(nn.Module):
    r"""Two states for every channel of every cell: one moves along time, one across the variates.

    Discretized, with steps Δ₁ in time and Δ₂ across, rates r, and couplings κ in (−1, 1):

        A1 = exp(−Δ₁ r₁),  A2 = (1 − A1) κ₁,  b1 = (1 − A1)/r₁ · B₁ x
        A4 = exp(−Δ₂ r₂),  A3 = (1 − A4) κ₂,  b2 = (1 − A4)/r₂ · B₂ x
        y = C₁ h¹ + C₂ h² + D x

    so that |A1| + |A2| ≤ 1 and |A3| + |A4| ≤ 1 whatever is learned. If selective, Δ₁, Δ₂, B and C are read off x;
    otherwise they are constant, and the layer is a convolution over (variate, time).

    Args:
        channels: width of a cell.
        state_size: entries of each state, for every channel.
        dt_range: steps in time start log-uniform between these; small ones remember long.
        dt_across: the same across variates.
        selective: whether steps, inputs and readouts depend on the data.
        coupled: False sets A2, A3 and A4 to zero: each variate goes by itself.
        reverse_variates: walk from the last variate to the first.
        form: of the scan, see `grid_scan`.
        generator: of the initial weights.

    Raises:
        ValueError: a size below 1, ranges of steps that are not positive.

    Source: Behrouz, Santacatterina and Zabih, "Chimera" (arXiv 2406.04320), section 3. The couplings as shares of what
    decays, which keep the recurrence stable, and the diagonal form of all four transitions are ours.

    >>> layer = SSM2D(8, state_size=4)
    >>> y, state = layer(torch.randn(2, 5, 20, 8))
    >>> y.shape, state.time.shape
    (torch.Size([2, 5, 20, 8]), torch.Size([2, 5, 32]))
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 8,
        dt_range: tuple[float, float] = (1e-2, 1.0),
        dt_across: tuple[float, float] = (0.1, 1.0),
        selective: bool = True,
        coupled: bool = True,
        reverse_variates: bool = False,
        form: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(channels, state_size) < 1:
            raise ValueError(f"channels={channels} and state_size={state_size} must both be at least 1")
        self.channels, self.state_size, self.coupled = channels, state_size, coupled
        self.reverse_variates, self.form = reverse_variates, form
        spread = torch.linspace(-1.5, 1.5, state_size).expand(channels, -1)  # rates around 1, e^±1.5
        self.log_rates = nn.Parameter(torch.stack((spread, spread)).contiguous())
        self.couplings = nn.Parameter(0.5 * torch.randn(2, channels, state_size, generator=generator))
        self.skip = nn.Parameter(torch.ones(channels))
        steps = [log_uniform(channels, bounds, generator).exp() for bounds in (dt_range, dt_across)]
        constants = torch.ones(4 * state_size) + 0.5 * torch.randn(4 * state_size, generator=generator)
        # what softplus turns into the steps, then B and C
        self.bias = nn.Parameter(torch.cat((torch.expm1(torch.cat(steps)).log(), constants / state_size**0.5)))
        self.read = nn.Linear(channels, 2 * channels + 4 * state_size, bias=False) if selective else None
        if self.read is not None:
            redraw_(self.read, generator)

    def initial_state(self, batch: int, variates: int) -> GridState:
        """Zeros."""
        edge = (batch, variates, self.channels * self.state_size)
        return GridState(self.skip.new_zeros(edge), self.skip.new_zeros(edge))

    def forward(
        self, x: Grid, state: GridState | None = None, gaps: Float[Tensor, "batch length"] | None = None
    ) -> tuple[Grid, GridState]:
        """Outputs, and both states at the last time.

        Args:
            gaps: time since the step before, in steps; 1 if not given.

        Raises:
            ValueError: an empty axis, channels that do not fit, gaps that are not positive (times out of order).
        """
        if x.shape[-1] != self.channels or 0 in x.shape[1:]:
            raise ValueError(f"x has shape {tuple(x.shape)}; it must be (batch, variates ≥ 1, length ≥ 1, "
                             f"{self.channels})")  # fmt: skip
        if gaps is not None and not bool((gaps > 0).all()):
            raise ValueError(f"the smallest gap between two times is {float(gaps.min()):g}: times must increase; sort "
                             "the steps and drop repeated ones")  # fmt: skip
        *cells, C1, C2 = self._cells(x, None if gaps is None else gaps[:, None, :, None])
        h1, h2, last = two_state.grid_scan(*cells, state, reverse_variates=self.reverse_variates, form=self.form)
        return self._output(x, h1, h2, C1, C2), last

    def step(
        self, x: Float[Tensor, "batch variates channels"], state: GridState
    ) -> tuple[Float[Tensor, "batch variates channels"], GridState]:
        """One time for all variates."""
        *cells, C1, C2 = self._cells(x, None)
        state = two_state.grid_step(*cells, state, reverse_variates=self.reverse_variates)
        return self._output(x, state.time, state.across, C1, C2), state

    def _cells(self, x: Tensor, gaps: Tensor | None) -> tuple[Tensor, ...]:
        """A1, A2, A3, A4, b1, b2, channels and states in one axis, and C1, C2."""
        n = self.state_size
        read = self.bias.expand(*x.shape[:-1], -1) if self.read is None else self.read(x) + self.bias
        dt1, dt2, B1, B2, C1, C2 = read.split((self.channels, self.channels, n, n, n, n), -1)
        dt1 = F.softplus(dt1) if gaps is None else gaps * F.softplus(dt1)
        (A1, gain1), (A4, gain4) = held(dt1, self.log_rates[0]), held(F.softplus(dt2), self.log_rates[1])
        coupling = torch.tanh(self.couplings)
        A2, A3 = (1 - A1) * coupling[0], (1 - A4) * coupling[1]
        if not self.coupled:
            A2, A3, A4 = (torch.zeros_like(t) for t in (A2, A3, A4))
        b1, b2 = (gain * B[..., None, :] * x[..., None] for gain, B in ((gain1, B1), (gain4, B2)))
        return *(t.flatten(-2) for t in (A1, A2, A3, A4, b1, b2)), C1, C2

    def _output(self, x: Tensor, h1: Tensor, h2: Tensor, C1: Tensor, C2: Tensor) -> Tensor:
        h1, h2 = (h.unflatten(-1, (self.channels, self.state_size)) for h in (h1, h2))
        return (h1 @ C1[..., None] + h2 @ C2[..., None])[..., 0] + self.skip * x


class ChimeraState(NamedTuple):
    """The states of a block's four layers: slow and fast, each down and up the variates."""

    slow_down: GridState
    slow_up: GridState
    fast_down: GridState
    fast_up: GridState


class ChimeraBlock(nn.Module):
    """x + out(silu(z) · (g · slow + (1 − g) · fast)), each head the sum of both directions across the variates.

    The slow head starts with small steps in time (trends), the fast one with large ones (seasons, shocks); the gate g
    is read off the data, as is z.

    Args:
        channels: width.
        state_size, coupled, form: of the four `SSM2D`.
        slow, fast: ranges of their steps in time.
        dropout: before the residual sum.
        generator: of the initial weights.

    Source: Behrouz et al. (2024), section 3.3; the exact gates are ours.
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 8,
        coupled: bool = True,
        slow: tuple[float, float] = (1e-2, 1e-1),
        fast: tuple[float, float] = (0.3, 3.0),
        dropout: float = 0.0,
        form: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(channels, eps=1e-5)
        self.enter, self.leave = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        for layer in (self.enter, self.leave):
            redraw_(layer, generator)
        self.heads = nn.ModuleList(
            SSM2D(channels, state_size, steps, coupled=coupled, reverse_variates=up, form=form, generator=generator)
            for steps in (slow, fast)
            for up in (False, True)
        )
        self.dropout = nn.Dropout(dropout)

    def initial_state(self, batch: int, variates: int) -> ChimeraState:
        return ChimeraState(*(head.initial_state(batch, variates) for head in self.heads))

    def forward(
        self, x: Grid, state: ChimeraState | None = None, gaps: Float[Tensor, "batch length"] | None = None
    ) -> tuple[Grid, ChimeraState]:
        starts = (None,) * 4 if state is None else state
        u, z, g = self.enter(self.norm(x)).chunk(3, -1)
        found = [head(u, start, gaps) for head, start in zip(self.heads, starts, strict=True)]
        return x + self._mix([y for y, _ in found], z, g), ChimeraState(*(last for _, last in found))

    def step(
        self, x: Float[Tensor, "batch variates channels"], state: ChimeraState
    ) -> tuple[Float[Tensor, "batch variates channels"], ChimeraState]:
        """One time for all variates."""
        u, z, g = self.enter(self.norm(x)).chunk(3, -1)
        found = [head.step(u, start) for head, start in zip(self.heads, state, strict=True)]
        return x + self._mix([y for y, _ in found], z, g), ChimeraState(*(last for _, last in found))

    def _mix(self, outputs: list[Tensor], z: Tensor, g: Tensor) -> Tensor:
        slow, fast = outputs[0] + outputs[1], outputs[2] + outputs[3]
        share = torch.sigmoid(g)
        return self.dropout(self.leave(F.silu(z) * (share * slow + (1 - share) * fast)))
