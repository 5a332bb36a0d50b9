"""Bilinear recurrences: the input chooses the matrix that the state is multiplied by, and nothing is added."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.linalg.scan import dense
from gramian.linalg.scan.diagonal import diagonal_scan

__all__ = ["KINDS", "BilinearRNN"]

KINDS = ("full", "factored", "block", "rotation", "diagonal")
"""From what runs every automaton to what runs parity: see `BilinearRNN`."""


class BilinearRNN(nn.Module):
    r"""The recurrence h_t = A(x_t) h_{t−1}, every entry of A a linear function of x_t.

    `kind` says which matrices A(x) can be, in falling order of what they can compute:

    ============  ===============================================  ==========================================
    full          A_ij = Σ_k W_ijk x_k                             any finite automaton
    factored      U diag(R x) Vᵀ, rank R                           any, once R ≥ states · letters
    block         full matrices of `block_size` on the diagonal    products of small automata
    rotation      turns of the plane by angles w·x                 counting modulo m (commutative groups)
    diagonal      real factors w·x                                 parity
    ============  ===============================================  ==========================================

    With nothing added, the size of the state means nothing; `normalize` divides it by its norm at each step, which
    keeps trainings and long words finite. (Rotations keep the norm by themselves.)

    Args:
        input_size: entries of an input, such as letters of an alphabet (one-hot).
        state_size: entries of the state.
        kind: one of `KINDS`.
        rank: R, of ``factored``; `state_size` if not given.
        block_size: of ``block``; must divide `state_size`.
        normalize: divide the state by its norm at each step.
        form: of the scan: ``auto``, ``sequential``, ``chunked``.
        generator: of the initial weights.

    Attributes:
        start: the state before the first input, learned.

    Raises:
        ValueError: an unknown kind, a size or rank below 1, blocks (or pairs, for rotations) that do not fill the
            state.

    Source: Ebrahimi and Memisevic, "Revisiting Bi-Linear State Transitions in Recurrent Neural Networks" (arXiv
    2505.21749), sections 3 and 4. The initial weights and the learned start are ours.

    >>> layer = BilinearRNN(input_size=3, state_size=8, kind="factored", rank=4)
    >>> states, last = layer(torch.randn(2, 10, 3))
    >>> states.shape, bool(torch.allclose(last.norm(dim=-1), torch.ones(2)))
    (torch.Size([2, 10, 8]), True)
    """

    def __init__(
        self,
        input_size: int,
        state_size: int,
        kind: str = "full",
        rank: int | None = None,
        block_size: int = 2,
        normalize: bool = True,
        form: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(KINDS)}")
        rank = state_size if rank is None else rank
        if min(input_size, state_size, rank, block_size) < 1:
            raise ValueError(f"{input_size=}, {state_size=}, {rank=} and {block_size=} must all be at least 1")
        part = {"block": block_size, "rotation": 2}.get(kind, 1)
        if state_size % part:
            raise ValueError(f"state_size={state_size} is not made of parts of {part}, which kind={kind!r} needs")
        self.input_size, self.state_size, self.kind = input_size, state_size, kind
        self.rank, self.block_size, self.normalize, self.form = rank, block_size, normalize, form

        def normal(*shape: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(shape, generator=generator))

        size, parts = state_size, state_size // part
        if kind == "full":
            self.weight = normal(size, size, input_size, scale=size**-0.5)
        elif kind == "factored":
            self.left, self.right = normal(size, rank, scale=rank**-0.5), normal(size, rank, scale=size**-0.5)
            self.weight = normal(rank, input_size)
        elif kind == "block":
            self.weight = normal(parts, block_size, block_size, input_size, scale=block_size**-0.5)
        elif kind == "rotation":  # angles
            self.weight = nn.Parameter(torch.rand(parts, input_size, generator=generator) * math.tau)
        else:
            self.weight = normal(size, input_size)
        self.start = normal(size)

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Everything is decayed (its scale means nothing) but the angles of rotations and the start."""
        angles = [self.weight] if self.kind == "rotation" else []
        kept = [p for p in self.parameters() if p is not self.start and p not in set(angles)]
        groups = [{"params": kept, "lr": lr, "weight_decay": weight_decay}] if kept else []
        return [*groups, {"params": [*angles, self.start], "lr": lr, "weight_decay": 0.0}]

    def initial_state(self, batch: int) -> Float[Tensor, "batch state"]:
        """The learned start, once for each sequence."""
        return self.start.expand(batch, -1)

    def forward(
        self, x: Float[Tensor, "batch length inputs"], state: Float[Tensor, "batch state"] | None = None
    ) -> tuple[Float[Tensor, "batch length state"], Float[Tensor, "batch state"]]:
        """Every state, and the last one.

        Raises:
            ValueError: inputs or a state of another size, an empty sequence.
            VanishedState: a normalized state that a singular transition took to zero.
        """
        if x.shape[-1] != self.input_size or x.shape[1] < 1:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; with input_size={self.input_size} it must be (batch, length ≥ 1, "
                f"{self.input_size})"
            )
        state = self.initial_state(len(x)) if state is None else state
        options = {"normalize": self.normalize, "form": self.form}
        if self.kind == "full":
            return dense.dense_scan(torch.einsum("ijk,blk->blij", self.weight, x), state, **options)
        if self.kind == "factored":
            return dense.factored_scan(self.left, x @ self.weight.mT, self.right, state, **options)
        if self.kind == "rotation":
            angles = x @ self.weight.mT
            turns = torch.polar(torch.ones_like(angles), angles)
            pairs = torch.view_as_complex(state.unflatten(-1, (-1, 2)).contiguous())
            states, last = diagonal_scan(turns, torch.zeros_like(turns), pairs)
            return torch.view_as_real(states).flatten(-2), torch.view_as_real(last).flatten(-2)
        if self.kind == "diagonal" and not self.normalize:
            factors = x @ self.weight.mT
            return diagonal_scan(factors, torch.zeros_like(factors), state)
        blocks = self.weight if self.kind == "block" else self.weight[:, None, None]
        A = torch.einsum("gijk,blk->blgij", blocks, x)
        states, last = dense.dense_scan(A, state.unflatten(-1, (len(blocks), -1)), **options)
        return states.flatten(-2), last.flatten(-2)

    def step(
        self, x: Float[Tensor, "batch inputs"], state: Float[Tensor, "batch state"]
    ) -> tuple[Float[Tensor, "batch state"], Float[Tensor, "batch state"]]:
        """One input: what is read, and the next state (the same here)."""
        last = self(x[:, None], state)[1]
        return last, last

    def run(self, words: Int[Tensor, "samples length"]) -> Float[Tensor, "samples length state"]:
        """The states along words of letters 0 … input_size − 1, each letter a one-hot input.

        Raises:
            ValueError: a letter outside the alphabet.
        """
        if words.numel() and not bool(((words >= 0) & (words < self.input_size)).all()):
            raise ValueError(
                f"letters must lie in 0 … {self.input_size - 1}; got {int(words.min())} … {int(words.max())}"
            )
        return self(F.one_hot(words.long(), self.input_size).to(self.start.dtype))[0]

    @classmethod
    def from_automaton(
        cls, transitions: Int[np.ndarray, "letters states"], kind: str = "full", start: int = 0
    ) -> BilinearRNN:
        """The recurrence that runs an automaton: letter a takes state i to ``transitions[a, i]``.

        States are unit vectors and A(letter) has a one at (transitions[letter, i], i). Factored, one rank-one term
        for each letter and state is enough: rank letters · states.

        Raises:
            ValueError: a kind other than ``full`` and ``factored``, states that do not exist.

        >>> parity = BilinearRNN.from_automaton(np.array([[0, 1], [1, 0]]))
        >>> parity.run(torch.tensor([[1, 1, 0, 1]])).argmax(-1).tolist()
        [[1, 0, 0, 1]]
        """
        transitions = np.asarray(transitions)
        letters, states = transitions.shape
        if kind not in ("full", "factored"):
            raise ValueError(f"kind={kind!r}: automata in general need 'full' or 'factored' matrices")
        if not (transitions.min() >= 0 and transitions.max() < states and 0 <= start < states):
            raise ValueError(f"the automaton's states are 0 … {states - 1}; transitions or start name others")
        layer = cls(letters, states, kind, rank=letters * states)
        letter, origin = np.divmod(np.arange(letters * states), states)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
            layer.start[start] = 1
            if kind == "full":
                layer.weight[transitions[letter, origin], origin, letter] = 1
            else:
                terms = np.arange(letters * states)
                layer.left[transitions[letter, origin], terms] = 1
                layer.right[origin, terms] = 1
                layer.weight[terms, letter] = 1
        return layer

    @classmethod
    def modular_counter(cls, modulus: int) -> tuple[BilinearRNN, Float[Tensor, "modulus 2"]]:
        """One plane that turns by 2π x / modulus at letter x, and the readout whose largest score is the sum.

        Raises:
            ValueError: a modulus below 2.

        >>> counter, readout = BilinearRNN.modular_counter(5)
        >>> (counter.run(torch.tensor([[3, 4, 1]])) @ readout.mT).argmax(-1).tolist()
        [[3, 2, 3]]
        """
        if modulus < 2:
            raise ValueError(f"modulus={modulus}: counting needs at least 2")
        layer = cls(modulus, 2, "rotation")
        angles = math.tau * torch.arange(modulus, dtype=torch.float64) / modulus
        with torch.no_grad():
            layer.weight.copy_(angles[None])
            layer.start.copy_(torch.tensor([1.0, 0.0]))
        return layer, torch.stack((angles.cos(), angles.sin()), -1).float()
