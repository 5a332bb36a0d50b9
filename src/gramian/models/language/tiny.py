"""A small transformer that reads bytes, and its training: for experiments that need a language model of their own."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.optim.fit import History, fit

BYTES = 256


class FeedForward(nn.Module):
    r"""\(W_\text{down}\,(a(W_\text{gate} x) \odot W_\text{up} x)\), or ungated \(W_\text{down}\,a(W_\text{up} x)\)."""

    def __init__(self, width: int, neurons: int, activation: Literal["relu", "silu", "gelu"], gated: bool) -> None:
        super().__init__()
        self.activation = {"relu": F.relu, "silu": F.silu, "gelu": F.gelu}[activation]
        self.up = nn.Linear(width, neurons, bias=False)
        self.gate = nn.Linear(width, neurons, bias=False) if gated else None
        self.down = nn.Linear(neurons, width, bias=False)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each after a norm and added to its input."""

    def __init__(self, width: int, heads: int, neurons: int, activation: Any, gated: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.feed_forward = FeedForward(width, neurons, activation, gated)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        batch, length, width = x.shape
        parts = self.query_key_value(self.norms[0](x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed_forward(self.norms[1](x))


class TinyTransformer(nn.Module):
    """A causal transformer over a small vocabulary, bytes by default.

    Args:
        width, depth, heads: of the stream, the blocks, the attention.
        neurons: of each feed-forward layer; four times the width without it.
        activation, gated: of the feed-forward layers.
        positions: the longest input.

    Raises:
        ValueError: heads that do not divide the width, or a size below one.

    >>> TinyTransformer(width=32, depth=1)(torch.zeros(2, 8, dtype=torch.long)).shape
    torch.Size([2, 8, 256])
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        *,
        neurons: int | None = None,
        activation: Literal["relu", "silu", "gelu"] = "gelu",
        gated: bool = False,
        positions: int = 256,
        vocabulary: int = BYTES,
    ) -> None:
        super().__init__()
        if min(width, depth, heads, positions, vocabulary) < 1 or width % heads:
            raise ValueError(
                f"width={width}, depth={depth}, heads={heads}: sizes at least 1, width a multiple of heads"
            )
        if activation not in ("relu", "silu", "gelu"):
            raise ValueError(f"activation={activation!r} is not 'relu', 'silu' or 'gelu'")
        self.positions = positions
        self.embedding = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(positions, width)
        self.layers = nn.ModuleList(Block(width, heads, neurons or 4 * width, activation, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for table in (self.embedding, self.place):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """The logits of the next token at every position.

        Raises:
            ValueError: an input longer than `positions`.
        """
        if ids.shape[1] > self.positions:
            raise ValueError(f"{ids.shape[1]} tokens; the model reads {self.positions} at most")
        x = self.embedding(ids) + self.place.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def byte_ids(text: str) -> Int[Tensor, " bytes"]:
    """A text's UTF-8 bytes as token numbers."""
    return torch.frombuffer(bytearray(text.encode("utf-8")), dtype=torch.uint8).long()


def train_on_tokens(
    model: nn.Module,
    ids: Int[Tensor, " tokens"],
    *,
    steps: int,
    length: int = 128,
    batch_size: int = 16,
    lr: float = 3e-3,
    generator: torch.Generator | None = None,
    **more: Any,
) -> History:
    """Train a language model on random windows of a text, to predict each next token.

    Args:
        model: ids (batch, length) → logits (batch, length, vocabulary).
        ids: the text.
        length: of a window.
        more: for `gramian.optim.fit.fit`: schedule, checkpoint, log, progress.

    Raises:
        ValueError: a text shorter than a window and one token.
    """
    if len(ids) < length + 2:
        raise ValueError(f"the text has {len(ids)} tokens; windows of {length} need at least {length + 2}")
    windows = ids.unfold(0, length + 1, 1)

    def loss(run: nn.Module, window: Tensor) -> Tensor:
        logits = run(window[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())

    return fit(model, windows, loss, steps=steps, batch_size=batch_size, lr=lr, generator=generator, **more)
