"""Products with a vector of many zeros: what sparse activations save, for one token at a time.

The rows that meet a zero are never read from memory, which is where the time of such a product goes.
Float32 and float64 on the CPU run compiled; anything else gathers with torch. For inference: the compiled
form is not differentiable and refuses inputs that need a gradient.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.gathered_kernels import gated_rows, summed_rows
from gramian.linalg.kernels import run_tasks

_ROWS_PER_TASK = 4096  # a thread costs more to start than a smaller layer takes
_COMPILED = (torch.float32, torch.float64)


def gated_product(
    x: Float[Tensor, " width"],
    up: Float[Tensor, "neurons width"],
    down: Float[Tensor, "neurons outputs"],
    gate: Float[Tensor, " neurons"],
) -> Float[Tensor, " outputs"]:
    r"""A gated feed-forward layer whose closed gates cost nothing: \(\sum_{g_i \ne 0} g_i (u_i \cdot x)\, d_i\).

    Args:
        x: the input.
        up: a row \(u_i\) a neuron.
        down: a row \(d_i\) a neuron: the down projection's weight, transposed and contiguous.
        gate: \(g_i\), most of them zero.

    Raises:
        ValueError: sizes that do not fit, or an input that needs a gradient.

    >>> gated_product(torch.ones(2), torch.eye(2), torch.tensor([[1.0], [9.0]]), torch.tensor([2.0, 0.0]))
    tensor([2.])
    """
    if len(up) != len(gate):
        raise ValueError(f"gate ({len(gate)},), up {tuple(up.shape)} and down {tuple(down.shape)} do not fit together")
    return GatedProduct(up, down)(x, gate)


class GatedProduct:
    """`gated_product` for weights that are used again and again: looked at and laid out once.

    Args:
        up, down: as there. The compiled form reads their memory: what is changed in place later counts.

    Raises:
        ValueError: sizes that do not fit, or, in a call, an input that needs a gradient.
    """

    def __init__(self, up: Float[Tensor, "neurons width"], down: Float[Tensor, "neurons outputs"]) -> None:
        if len(up) != len(down):
            raise ValueError(f"up {tuple(up.shape)} and down {tuple(down.shape)} do not fit together")
        self.up, self.down = up, down
        self._none = down.new_zeros(1)
        self._arrays = (up.numpy(), down.numpy(), self._none.numpy()) if _compiled(up, down) else None

    def __call__(
        self,
        x: Float[Tensor, " width"],
        gate: Float[Tensor, " neurons"],
        thresholds: Float[Tensor, " neurons"] | None = None,
    ) -> Float[Tensor, " outputs"]:
        """Args: thresholds: gates under them, in size, are closed too."""
        if x.shape != self.up.shape[1:] or len(gate) != len(self.up):
            raise ValueError(f"x {tuple(x.shape)}, up {tuple(self.up.shape)} and gate {tuple(gate.shape)} do not fit")
        if self._arrays is None or not _compiled(x, gate) or x.dtype != self.up.dtype:
            closed = gate == 0 if thresholds is None else (gate == 0) | (gate.abs() < thresholds)
            chosen = (~closed).nonzero().flatten()
            return ((self.up[chosen] @ x) * gate[chosen]) @ self.down[chosen]
        up, down, none = self._arrays
        least = none if thresholds is None else thresholds.numpy()
        out = _room(len(gate), self.down)
        run_tasks(gated_rows, len(out), x.numpy(), up, down, gate.numpy(), least, out, _ROWS_PER_TASK)
        return torch.from_numpy(out[0] if len(out) == 1 else out.sum(0))


def summed_product(weights: Float[Tensor, " rows"], matrix: Float[Tensor, "rows outputs"]) -> Float[Tensor, " outputs"]:
    r"""A vector of many zeros times a matrix: \(\sum_{v_i \ne 0} v_i r_i\).

    Args:
        weights: \(v\).
        matrix: its rows \(r_i\); of a linear layer the weight, transposed and contiguous.

    Raises:
        ValueError: sizes that do not fit, or an input that needs a gradient.
    """
    if len(matrix) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(matrix)} rows")
    if not _compiled(weights, matrix):
        chosen = weights.nonzero().flatten()
        return weights[chosen] @ matrix[chosen]
    out = _room(len(weights), matrix)
    run_tasks(summed_rows, len(out), weights.numpy(), matrix.numpy(), out, _ROWS_PER_TASK)
    return torch.from_numpy(out[0] if len(out) == 1 else out.sum(0))


def _compiled(*tensors: Tensor) -> bool:
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise ValueError("these products have no gradient: call them under torch.no_grad()")
    return all(t.device.type == "cpu" and t.dtype == tensors[0].dtype in _COMPILED for t in tensors) and all(
        t.is_contiguous() for t in tensors
    )


def _room(rows: int, like: Tensor) -> np.ndarray:
    kind = np.float32 if like.dtype == torch.float32 else np.float64
    return np.empty((max(1, -(-rows // _ROWS_PER_TASK)), like.shape[1]), dtype=kind)
