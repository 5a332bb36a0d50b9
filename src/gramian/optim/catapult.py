r"""Full-batch gradient descent watched step by step: loss, tangent kernel, and which of three phases it was.

The loss is \(L = \frac{1}{2n}\sum_i (f(x_i) - y_i)^2\) and \(\lambda\) the largest eigenvalue of the tangent kernel
over \(n\), \(K = JJ^T/n\), which is the largest curvature of the linearized model's loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.optim import curvature

__all__ = ["Trace", "critical_rates", "half_mean_square", "kernel_norm", "run", "two_layer_recursion"]


def half_mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """Σ (outputs − targets)² / 2n, n the number of entries."""
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs have shape {tuple(outputs.shape)}, targets {tuple(targets.shape)}")
    return 0.5 * (outputs - targets).square().mean()


def kernel_norm(model: nn.Module, inputs: Tensor) -> float:
    """The largest eigenvalue of the tangent kernel, divided by its number of rows."""
    rows = curvature.jacobian(model, inputs)
    gram = rows @ rows.mT if rows.shape[0] <= rows.shape[1] else rows.mT @ rows
    return float(torch.linalg.eigvalsh(gram)[-1]) / rows.shape[0]


def critical_rates(model: nn.Module, inputs: Tensor) -> tuple[float, float]:
    """2/λ, above which a linear model diverges, and 4/λ, above which a wide quadratic one does."""
    norm = kernel_norm(model, inputs)
    return 2 / norm, 4 / norm


@dataclass
class Trace:
    """What happened.

    Attributes:
        lr: the learning rate η.
        loss: before every step, and after the last.
        kernel: (step, λ) where it was measured; the last entry is after the last step.
        diverged: the loss exceeded the limit or was no longer finite, and descent stopped there.
    """

    lr: float
    loss: list[float] = field(default_factory=list)
    kernel: list[tuple[int, float]] = field(default_factory=list)
    diverged: bool = False

    @property
    def peak(self) -> float:
        """The largest loss as a multiple of the first."""
        return max(self.loss) / self.loss[0]

    @property
    def sharpness(self) -> float:
        """η λ at the end; gradient descent is stable below 2."""
        return self.lr * self.kernel[-1][1]

    @property
    def phase(self) -> Literal["monotone", "catapult", "divergent"]:
        """Divergent; catapult, if the loss ever rose above its first value; monotone."""
        if self.diverged:
            return "divergent"
        return "catapult" if self.peak > 1 + 1e-9 else "monotone"


def run(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    lr: float,
    steps: int,
    *,
    objective: Callable[[Tensor, Tensor], Tensor] = half_mean_square,
    kernel_every: int = 0,
    target: float | None = None,
    limit: float = 1e6,
) -> Trace:
    """Train `model` in place by full-batch gradient descent.

    Args:
        lr: the learning rate.
        steps: at most so many.
        objective: (outputs, targets) → a scalar.
        kernel_every: steps between measurements of the kernel; 0 measures it before and after only.
        target: stop when the loss is not above it.
        limit: stop, as diverged, when the loss exceeds this multiple of the first one.

    Raises:
        ValueError: a rate that is not positive, no step, a loss that is not one number, or complex parameters.

    Source: Lewkowycz et al., The large learning rate phase of deep learning: the catapult mechanism (2020); Zhu et al.,
    Quadratic models for understanding neural network dynamics (2022).
    """
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr={lr} must be positive and finite")
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    layout = curvature.Layout(model)
    parameters = list(model.parameters())
    trace = Trace(lr)
    step = 0
    while True:
        value = objective(model(inputs), targets)
        if value.numel() != 1:
            raise ValueError(f"the objective must return one number, got shape {tuple(value.shape)}; take its mean")
        trace.loss.append(float(value.detach()))
        if not math.isfinite(trace.loss[-1]) or trace.loss[-1] > limit * trace.loss[0]:
            trace.diverged = True
        if trace.diverged or step == steps or (target is not None and trace.loss[-1] <= target):
            break
        if step == 0 or (kernel_every and step % kernel_every == 0):
            trace.kernel.append((step, kernel_norm(model, inputs)))
        grads = torch.autograd.grad(value.reshape(()), parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads):
                if grad is not None:
                    parameter.sub_(grad, alpha=lr)
        step += 1
    finite = bool(torch.isfinite(layout.read(model)).all())
    trace.kernel.append((step, kernel_norm(model, inputs) if finite else math.inf))
    return trace


def two_layer_recursion(
    output: float, kernel: float, width: int, lr: float, steps: int
) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"]]:
    r"""The exact course of output and kernel of a two-layer linear net on one datum, x = 1, y = 0.

    For \(f = u \cdot v / \sqrt m\) and \(\lambda = (|u|^2 + |v|^2)/m\),

    \[ f \leftarrow f\,(1 - \eta\lambda + \eta^2 f^2/m), \qquad
       \lambda \leftarrow \lambda + \frac{\eta f^2}{m}(\eta\lambda - 4). \]

    Returns:
        f and λ before the first step and after each.

    Raises:
        ValueError: a width or number of steps below 1, or a kernel that is not positive.

    Source: Lewkowycz et al. (2020), section 2.

    >>> f, kernel = two_layer_recursion(1.0, 2.0, 1000, 1.1, 200)
    >>> bool(f[10] > 2), bool(abs(f[-1]) < 1e-9), bool(1.1 * kernel[-1] < 2)
    (True, True, True)
    """
    if width < 1 or steps < 1:
        raise ValueError(f"width={width} and steps={steps} must be at least 1")
    if not kernel > 0:
        raise ValueError(f"kernel={kernel} must be positive: it is a squared norm")
    outputs, kernels = [output], [kernel]
    for _ in range(steps):
        square = output**2 / width
        output, kernel = (
            output * (1 - lr * kernel + lr**2 * square),
            kernel + lr * square * (lr * kernel - 4),
        )
        outputs.append(output)
        kernels.append(kernel)
    return torch.tensor(outputs, dtype=torch.float64), torch.tensor(kernels, dtype=torch.float64)
