"""Gated linear attention: a layer whose matrix state forgets, coordinate by coordinate, as the sequence tells it to."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.scan import matrix_state
from gramian.nn.state.convolution import ShortConvolution, uniform_

GATES = ("key", "head", "constant", "none")
"""What the decay depends on: a gate a key coordinate, a gate a head, a constant a head, or no decay."""


class GLAState(NamedTuple):
    """What a `GatedLinearAttention` layer carries from one piece of a sequence to the next."""

    inputs: Float[Tensor, "batch projected width"]
    """The last inputs of the short convolution (of width 0 if there is none)."""
    memory: Float[Tensor, "batch heads key_size value_size"]
    """The matrix of each head."""


class GatedLinearAttention(nn.Module):
    r"""A layer on `gramian.linalg.scan.matrix_state_scan`: queries, keys, values and decays are read off the sequence.

    For each head S_t = diag(α_t) S_{t−1} + k_t v_tᵀ, o_t = S_tᵀ q_t / √key_size, with

        α_t = sigmoid(W₂ W₁ x_t + b)^{1/temperature},   y_t = W_o [norm(o_t) ∘ silu(W_g x_t)],

    key_size = channels / (2 num_heads), value_size = channels / num_heads, and W₁ of rank `gate_rank`: 4 channels²
    parameters and the few of the gate and the norm.

    Args:
        channels: width of the sequence.
        num_heads: heads.
        gate: ``"key"``, a decay for each key coordinate as above; ``"head"``, one for each head read off the sequence
            in the same way (as in Mamba-2); ``"constant"``, 1 − 2^{−5−h} for head h (retention); ``"none"``.
        gate_rank: rank of the gate's map.
        temperature: the higher, the slower the decays at the start.
        conv_width: taps of a causal convolution and SiLU on queries, keys and values; 0, as published, for none.
        chunk: tokens between the states that the scan carries.
        generator: of the initial weights.

    Raises:
        ValueError: channels that are not an even multiple of the heads, an unknown gate, sizes or a temperature that
            are not positive.

    Source: Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training", 2023, section 4.4.

    >>> layer = GatedLinearAttention(16, num_heads=2)
    >>> y, state = layer(torch.randn(3, 10, 16))
    >>> y.shape, state.memory.shape
    (torch.Size([3, 10, 16]), torch.Size([3, 2, 4, 8]))
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 4,
        gate: str = "key",
        gate_rank: int = 16,
        temperature: float | int = 16.0,
        conv_width: int = 0,
        chunk: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if channels < 1 or num_heads < 1 or channels % (2 * num_heads):
            raise ValueError(
                f"channels={channels} must be a multiple of 2 · num_heads={2 * num_heads}: each head has "
                f"channels / (2 num_heads) key coordinates"
            )
        if gate not in GATES:
            raise ValueError(f"gate={gate!r} is unknown; choose one of {', '.join(GATES)}")
        if conv_width < 0:
            raise ValueError(f"conv_width={conv_width}: a number of taps, or 0 for no convolution")
        if gate_rank < 1 or not temperature > 0:
            raise ValueError(f"gate_rank={gate_rank} and temperature={temperature} must be positive")
        self.num_heads, self.gate, self.temperature, self.chunk = num_heads, gate, temperature, chunk
        self.key_size, self.value_size = channels // (2 * num_heads), channels // num_heads
        self.q_proj = nn.Linear(channels, channels // 2, bias=False)
        self.k_proj = nn.Linear(channels, channels // 2, bias=False)
        self.v_proj = nn.Linear(channels, channels, bias=False)
        self.g_proj = nn.Linear(channels, channels, bias=False)
        self.o_proj = nn.Linear(channels, channels, bias=False)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.o_proj):
            uniform_(projection, channels**-0.5, generator)
        self.conv1d = None
        if conv_width:
            self.conv1d = ShortConvolution(2 * channels, conv_width, bias=False)
            uniform_(self.conv1d, conv_width**-0.5, generator)
        self.gk_proj: nn.Sequential | None = None
        if gate in ("key", "head"):
            width = channels // 2 if gate == "key" else num_heads
            self.gk_proj = nn.Sequential(nn.Linear(channels, gate_rank, bias=False), nn.Linear(gate_rank, width))
            uniform_(self.gk_proj[0], channels**-0.5, generator)
            uniform_(self.gk_proj[1], gate_rank**-0.5, generator)
        self.g_norm = nn.RMSNorm(self.value_size, eps=1e-5)
        heads = torch.arange(num_heads, dtype=torch.float64)
        self.register_buffer("log_decay", torch.log1p(-(2.0 ** (-5 - heads))).float(), persistent=False)

    def initial_state(self, batch: int) -> GLAState:
        """Zeros; the memory in float32 at least."""
        weight = self.o_proj.weight
        inputs = weight.new_zeros(batch, 2 * weight.shape[0], 0)
        if self.conv1d is not None:
            inputs = self.conv1d.initial_state(batch)
        wide = torch.promote_types(weight.dtype, torch.float32)
        return GLAState(inputs, weight.new_zeros(batch, self.num_heads, self.key_size, self.value_size, dtype=wide))

    def forward(
        self, x: Float[Tensor, "batch length channels"], state: GLAState | None = None
    ) -> tuple[Float[Tensor, "batch length channels"], GLAState]:
        """Outputs, and the state to go on from."""
        if state is None:
            state = self.initial_state(x.shape[0])
        q, k, v, inputs = self._project(x, state.inputs)
        settings = {"chunk": self.chunk, "state": state.memory, "return_state": True}
        y, memory = matrix_state.matrix_state_scan(q, k, v, self.log_decays(x), **settings)
        return self._read(y.transpose(1, 2), x), GLAState(inputs, memory)

    def step(
        self, x: Float[Tensor, "batch channels"], state: GLAState | None = None
    ) -> tuple[Float[Tensor, "batch channels"], GLAState]:
        """One element of the sequence."""
        if state is None:
            state = self.initial_state(x.shape[0])
        q, k, v, inputs = self._project(x[:, None], state.inputs)
        log_g = self.log_decays(x[:, None])
        if log_g is not None and log_g.dim() > 1:
            log_g = log_g[:, :, 0]
        y, memory = matrix_state.matrix_state_step(state.memory, q[:, :, 0], k[:, :, 0], v[:, :, 0], log_g)
        return self._read(y, x), GLAState(inputs, memory)

    def log_decays(
        self, x: Float[Tensor, "batch length channels"]
    ) -> (
        Float[Tensor, " heads"]
        | Float[Tensor, "batch heads length"]
        | Float[Tensor, "batch heads length key_size"]
        | None
    ):
        """Logarithms of the decays α that the layer applies to its state at each token."""
        if self.gate == "none":
            return None
        if self.gk_proj is None:
            return self.log_decay
        # in float32: near α = 1 half precision has no digits left
        logits = self.gk_proj(x)
        log_g = F.logsigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32))) / self.temperature
        return log_g.mT if self.gate == "head" else self._heads(log_g)

    def _project(self, x: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values with heads apart, and the convolution's new state."""
        qkv = torch.cat((self.q_proj(x), self.k_proj(x), self.v_proj(x)), -1)
        if self.conv1d is not None:
            qkv, inputs = self.conv1d(qkv.mT, inputs, silu=True)
            qkv = qkv.mT
        size = x.shape[-1]
        q, k, v = (self._heads(t) for t in qkv.split((size // 2, size // 2, size), -1))
        return q * self.key_size**-0.5, k, v, inputs

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, length, heads · size) → (batch, heads, length, size)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _read(self, y: Tensor, x: Tensor) -> Tensor:
        """(…, heads, value_size) → (…, channels): norm of each head, output gate, mixing."""
        return self.o_proj(self.g_norm(y).flatten(-2) * F.silu(self.g_proj(x)))


class GLABlock(nn.Module):
    """A residual block: gated linear attention, then a SwiGLU perceptron, each behind an RMS norm.

    Args:
        channels, num_heads, gate, conv_width, generator: as of `GatedLinearAttention`.
        expansion: inner width of the perceptron, in channels; rounded down.

    Raises:
        ValueError: as `GatedLinearAttention`, or an inner width below 1.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 4,
        gate: str = "key",
        expansion: float | int = 8 / 3,
        conv_width: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        inner = int(channels * expansion)
        if inner < 1:
            raise ValueError(f"expansion={expansion}: the perceptron of {channels} channels has no unit left")
        self.attn_norm, self.mlp_norm = (nn.RMSNorm(channels, eps=1e-5) for _ in range(2))
        self.attn = GatedLinearAttention(channels, num_heads, gate, conv_width=conv_width, generator=generator)
        self.gate_proj = nn.Linear(channels, inner, bias=False)
        self.up_proj = nn.Linear(channels, inner, bias=False)
        self.down_proj = nn.Linear(inner, channels, bias=False)
        for projection in (self.gate_proj, self.up_proj, self.down_proj):
            uniform_(projection, projection.in_features**-0.5, generator)

    def forward(
        self,
        x: Float[Tensor, "batch length channels"],
        state: GLAState | None = None,
    ) -> tuple[Float[Tensor, "batch length channels"], GLAState]:
        """Outputs, and the state to go on from."""
        mixed, state = self.attn(self.attn_norm(x), state)
        x = x + mixed
        hidden = self.mlp_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden)), state
