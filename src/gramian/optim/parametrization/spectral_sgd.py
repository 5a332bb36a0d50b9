r"""Gradient descent whose updates have a set spectral norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SpectralSGD", "power_iteration"]


def power_iteration(
    matrix: Float[Tensor, "rows columns"], vector: Float[Tensor, " columns"], steps: int
) -> tuple[Float[Tensor, ""], Float[Tensor, " columns"]]:
    r"""An estimate of \(\|M\|_2\) from below by `steps` rounds of \(v \leftarrow M^T M v\), and the last v.

    Returns zero for a zero matrix, and for a `vector` that the matrix does not see.
    """
    norm = matrix.new_zeros(())
    for _ in range(steps):
        image = matrix @ vector
        norm = torch.linalg.vector_norm(image)
        back = matrix.mT @ image
        size = torch.linalg.vector_norm(back)
        if not bool(size > 0):
            return norm, vector
        vector = back / size
    return torch.linalg.vector_norm(matrix @ vector), vector


class SpectralSGD(torch.optim.Optimizer):
    r"""\(W \leftarrow W - \eta\,\sqrt{\text{fan-out}/\text{fan-in}}\; G/\|G\|_2\): every update has the spectral norm
    that feature learning wants, at every width and for every loss.

    A matrix is (fan-out, fan-in); further axes (a convolution's kernel) count to the fan-in. Parameters of one axis
    are matrices of one column. The norm is estimated by power iteration, started where the last step ended; too few
    rounds find too small a norm and make the update larger than asked.

    Args:
        params: parameters or groups. An embedding's matrix is (inputs, width) with one-hot inputs: give it to
            another optimizer.
        lr: η: how much a layer's output moves, of the order of its own size.
        momentum: of the gradients, before they are normalized.
        power_iters: rounds a step.
        seed: of the power iteration's first vector.

    Raises:
        ValueError: a negative rate, a momentum outside [0, 1), power_iters below 1, or a parameter without axes.

    Source: Yang, Simon and Bernstein (2023), section 4 and the normalized updates of its appendix.

    >>> w = torch.nn.Parameter(torch.zeros(2, 8))
    >>> (w * torch.arange(16.0).view(2, 8)).sum().backward()
    >>> SpectralSGD([w], lr=0.1, power_iters=20).step()
    >>> round(float(torch.linalg.matrix_norm(w.detach(), 2)), 4)
    0.05
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | int,
        *,
        momentum: float | int = 0.0,
        power_iters: int = 1,
        seed: int = 0,
    ) -> None:
        if not 0 <= lr < math.inf:
            raise ValueError(f"lr={lr} must be at least 0 and finite")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be in [0, 1)")
        if power_iters < 1:
            raise ValueError(f"power_iters={power_iters} must be at least 1")
        settings = {"lr": lr, "momentum": momentum, "power_iters": power_iters}
        super().__init__(params, settings)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim == 0:
                    raise ValueError("a parameter without axes has no fan-in and no fan-out: train it by another rule")
        self.seed = seed

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; a zero gradient moves nothing."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        gradient = parameter.grad
        if group["momentum"]:
            held = state.setdefault("momentum", torch.zeros_like(gradient))
            gradient = held.mul_(group["momentum"]).add_(gradient)
        matrix = gradient.reshape(len(gradient), -1)
        matrix = matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
        largest = matrix.abs().amax()
        if not bool(largest > 0):
            return
        matrix = matrix / largest  # squares of tiny gradients would vanish in the iteration
        fan_out, fan_in = matrix.shape
        if "vector" not in state:
            generator = torch.Generator().manual_seed(self.seed)
            state["vector"] = torch.randn(matrix.shape[1], generator=generator).to(matrix)
            state["vector"] /= torch.linalg.vector_norm(state["vector"])
        norm, state["vector"] = power_iteration(matrix, state["vector"], group["power_iters"])
        if not bool(norm > 0):  # the last direction is one that this gradient does not see
            norm, state["vector"] = power_iteration(matrix, matrix.abs().sum(0), 1 + group["power_iters"])
            if not bool(norm > 0):
                norm = torch.linalg.matrix_norm(matrix)
        update = matrix * (math.sqrt(fan_out / fan_in) / norm)
        parameter.sub_((group["lr"] * update).reshape(parameter.shape).to(parameter.dtype))
