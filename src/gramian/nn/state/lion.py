"""LION: a layer of linear attention that reads both ways, with no decay, a constant one, or one the sequence sets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.scan import bidirectional
from gramian.linalg.signal import routes
from gramian.nn.state.convolution import uniform_

__all__ = ["DECAYS", "LION"]

DECAYS = ("none", "constant", "selective")
"""LION-Lit, LION-D and LION-S."""


class LION(nn.Module):
    r"""Bidirectional linear attention, normalized, on `gramian.linalg.scan.bidirectional.bidirectional_scan`.

    For each head y_i = Σ_j M_ij φ(q_i)·φ(k_j) v_j / Σ_j M_ij φ(q_i)·φ(k_j), M_ij the product of decays between two
    tokens, and

        ``none``        a = 1,                   φ(x) = elu(x) + 1,
        ``constant``    a = sigmoid(p), a head,  φ(x) = (silu(x) + ½) / ‖silu(x) + ½‖,
        ``selective``   a_i = 1 − sigmoid(w·x_i + b), φ as before.

    Args:
        channels: width of the sequence.
        num_heads: heads; they divide the channels.
        decay: one of the three above.
        grid: side of a square grid of which the tokens are the cells, row by row: M becomes the mean of the masks
            along a snake of rows and one of columns. None for a plain sequence.
        class_token: whether a token that belongs to no cell comes first. Its decay is 1.
        form, chunk: how it is computed: ``full``, ``rnn``, ``chunk``; see `bidirectional_scan`.
        generator: of the initial weights.

    Raises:
        ValueError: heads that do not divide the channels, an unknown decay or form, a grid without a cell.

    Source: Afzal et al., "Linear Attention for Efficient Bidirectional Sequence Modeling", 2025, and its released code.

    >>> LION(16, num_heads=2)(torch.randn(3, 10, 16)).shape
    torch.Size([3, 10, 16])
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 4,
        decay: str = "selective",
        grid: int | None = None,
        class_token: bool = False,
        form: str = "chunk",
        chunk: int = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if channels < 1 or num_heads < 1 or channels % num_heads:
            raise ValueError(f"channels={channels} must be a positive multiple of num_heads={num_heads}")
        if decay not in DECAYS:
            raise ValueError(f"decay={decay!r} is unknown; choose one of {', '.join(DECAYS)}")
        if form not in bidirectional.FORMS:
            raise ValueError(f"form={form!r} is unknown; choose one of {', '.join(bidirectional.FORMS)}")
        if grid is not None and grid < 1:
            raise ValueError(f"grid={grid}: the side of a square grid of at least one cell, or None")
        self.num_heads, self.decay, self.grid, self.class_token = num_heads, decay, grid, class_token
        self.form, self.chunk = form, chunk
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        ways = 1 if grid is None else 2  # each way through a grid has decays of its own
        self.decays: nn.Linear | None = None
        if decay == "selective":
            self.decays = nn.Linear(channels, ways * num_heads)
        elif decay == "constant":
            self.logits = nn.Parameter(torch.randn(ways * num_heads, generator=generator))
        for linear in (self.query_key_value, self.output, self.decays):
            if linear is not None:
                uniform_(linear, channels**-0.5, generator)

    def forward(self, x: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch length channels"]:
        """Outputs; there is no state to carry, as each token reads the whole sequence.

        Raises:
            ValueError: with a grid, a length that is not that of the square (and of the class token).
        """
        q, k, v = (self._heads(t) for t in self.query_key_value(x).chunk(3, -1))
        q, k = self._features(q), self._features(k)
        log_a = self.log_decays(x)
        if self.grid is None:
            y = self._attend(q, k, v, log_a, True)
        else:
            y = self._both_ways(q, k, v, log_a)
        return self.output(y.transpose(1, 2).flatten(-2))

    def log_decays(
        self, x: Float[Tensor, "batch length channels"]
    ) -> Float[Tensor, "batch ways_heads length"] | Float[Tensor, " ways_heads"] | None:
        """Logarithms of the decays a of each token, a head and a way through the grid."""
        if self.decay == "none":
            return None
        if self.decays is None:
            return F.logsigmoid(self.logits)
        logits = self.decays(x)  # in float32: near a = 1 half precision has no digits left
        log_a = -F.softplus(logits.to(torch.promote_types(logits.dtype, torch.float32))).mT
        if self.class_token:
            log_a = torch.cat((torch.zeros_like(log_a[..., :1]), log_a[..., 1:]), -1)
        return log_a

    def _features(self, x: Tensor) -> Tensor:
        """φ, positive."""
        if self.decay == "none":
            return F.elu(x) + 1
        return F.normalize(F.silu(x) + 0.5, dim=-1)

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, length, heads · size) → (batch, heads, length, size)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, normalize: bool) -> Tensor:
        return bidirectional.bidirectional_scan(q, k, v, log_a, self.form, self.chunk, normalize)

    def _both_ways(self, q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None) -> Tensor:
        """Numerators and denominators of both ways through the grid, then the division."""
        assert self.grid is not None
        first = int(self.class_token)
        if q.shape[2] != self.grid**2 + first:
            raise ValueError(
                f"{q.shape[2]} tokens are not a square of {self.grid} × {self.grid}"
                f"{' after a class token' if first else ''}; give the layer the grid's side, or grid=None"
            )
        v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
        total = torch.zeros_like(v)
        gates = (None, None) if log_a is None else log_a.chunk(2, -2 if log_a.dim() == 3 else 0)
        for columns, gate in zip((False, True), gates, strict=True):
            order = routes.snake(self.grid, self.grid, columns).to(q.device) + first
            if first:
                order = torch.cat((order.new_zeros(1), order))
            along = gate if gate is None or gate.dim() == 1 else gate[..., order]
            y = self._attend(q[:, :, order], k[:, :, order], v[:, :, order], along, False)
            total = total + y[:, :, routes.inverse(order)]
        return total[..., :-1] / total[..., -1:]
