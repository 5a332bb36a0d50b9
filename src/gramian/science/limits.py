r"""The infinitely wide linear network with one hidden layer, under gradient descent: an exact feature-learning limit.

Under maximal update (or mean field) a network of n neurons computes \(f(x) = \frac1n \sum_i v_i\, u_i^T x\). One step
changes every neuron by the same linear map, whatever it is, so that as n grows all that is ever needed is the
covariance of \((u, v)\) over the neurons: a matrix of inputs plus outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["KernelLimit", "LinearTwoLayerLimit"]

Objective = Callable[[Tensor], Tensor]
"""The network's matrix (outputs, inputs) → a scalar loss."""


def _gradient(objective: Objective, function: Tensor) -> Tensor:
    point = function.detach().requires_grad_()
    with torch.enable_grad():
        value = objective(point)
        if value.numel() != 1 or not bool(torch.isfinite(value)):
            raise ValueError(f"the loss must be one finite number, got {value.detach()}: lower lr=")
        return torch.autograd.grad(value.reshape(()), point)[0]


def _checked(inputs: int, outputs: int, lr: float | int, *scales: float | int) -> None:
    if min(inputs, outputs) < 1:
        raise ValueError(f"inputs={inputs}, outputs={outputs} must be at least 1")
    if not all(0 < v < math.inf for v in (lr, *scales)):
        raise ValueError(f"lr={lr}, scales={scales} must be positive and finite")


class LinearTwoLayerLimit:
    r"""The limit as a state \(S = E[(u, v)(u, v)^T]\), with \(f(x) = F x\), \(F = E[v u^T]\).

    A gradient step on a loss with \(G = \partial L / \partial F\) is
    \(u \leftarrow u - \eta G^T v\), \(v \leftarrow v - \eta G u\), that is \(S \leftarrow T S T^T\) with
    \(T = \begin{pmatrix} I & -\eta G^T \\ -\eta G & I \end{pmatrix}\).

    Args:
        inputs, outputs: sizes of x and f(x).
        lr: η, of every neuron: a network of width n uses nη.
        input_scale, output_scale: standard deviations of u's and v's entries at the start.
        dtype: of the state.

    Attributes:
        state: S, (inputs + outputs) squared.

    Raises:
        ValueError: sizes below 1, or a rate or scale that is not positive and finite.

    Source: Yang and Hu (2020), sections 5 and 6 (the linear network with one hidden layer), in covariance form.

    >>> limit = LinearTwoLayerLimit(1, 1, lr=0.5, dtype=torch.float64)
    >>> for _ in range(30):
    ...     _ = limit.step(lambda f: 0.5 * (f - 2).square().sum())
    >>> round(float(limit.function), 6)
    2.0
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        lr: float | int,
        input_scale: float | int = 1.0,
        output_scale: float | int = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _checked(inputs, outputs, lr, input_scale, output_scale)
        self.inputs, self.outputs, self.lr = inputs, outputs, float(lr)
        diagonal = torch.cat(
            [torch.full((inputs,), float(input_scale) ** 2), torch.full((outputs,), float(output_scale) ** 2)]
        )
        self.state = torch.diag(diagonal.to(dtype))

    @property
    def function(self) -> Float[Tensor, "outputs inputs"]:
        """F: what the network computes."""
        return self.state[self.inputs :, : self.inputs]

    @property
    def features(self) -> Float[Tensor, "inputs inputs"]:
        """E[u uᵀ]: inner products of the inputs' embeddings, which in a kernel limit never change."""
        return self.state[: self.inputs, : self.inputs]

    def _turn(self, gradient: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "both both"]:
        turn = torch.zeros_like(self.state)
        turn[: self.inputs, self.inputs :] = gradient.mT
        turn[self.inputs :, : self.inputs] = gradient
        return turn

    def step(self, objective: Objective) -> Float[Tensor, "outputs inputs"]:
        """One gradient step on `objective`; returns the gradient with respect to F.

        Raises:
            ValueError: a loss that is not one finite number.
        """
        gradient = _gradient(objective, self.function)
        self._move(-self.lr * self._turn(gradient))
        return gradient

    def adapted(self, objective: Objective, steps: int = 1, lr: float | int | None = None) -> LinearTwoLayerLimit:
        """A copy after some steps on another loss, this one left as it is."""
        copy = object.__new__(type(self))
        copy.inputs, copy.outputs, copy.lr = self.inputs, self.outputs, float(self.lr if lr is None else lr)
        copy.state = self.state.clone()
        for _ in range(steps):
            copy.step(objective)
        return copy

    def meta_step(self, tasks: list[tuple[Objective, Objective]], inner_lr: float | int) -> None:
        r"""One step of first-order model-agnostic meta-learning, exactly.

        Every task's (support, query) losses: neurons take an inner step \(T\) on the support loss, the query's
        gradient \(B\) is taken there and applied to the neurons before the inner step:
        \(S \leftarrow P S P^T\), \(P = I - \eta\,\overline{B T}\).

        Raises:
            ValueError: no task, or a loss that is not one finite number.
        """
        if not tasks:
            raise ValueError("at least one task is needed")
        change = torch.zeros_like(self.state)
        for support, query in tasks:
            inner = -inner_lr * self._turn(_gradient(support, self.function))
            adapted = self.state + inner @ self.state + self.state @ inner.mT + inner @ self.state @ inner.mT
            outer = self._turn(_gradient(query, adapted[self.inputs :, : self.inputs]))
            change -= self.lr / len(tasks) * (outer + outer @ inner)
        self._move(change)

    def _move(self, change: Tensor) -> None:
        half = self.state + change @ self.state
        self.state = half + half @ change.mT


class KernelLimit:
    r"""The same network in the neural tangent limit: features stay, and
    \(F \leftarrow F - \eta (\sigma_u^2 + \sigma_v^2)\, G\).

    Args:
        inputs, outputs, lr, input_scale, output_scale, dtype: as in `LinearTwoLayerLimit`.

    Raises:
        ValueError: as there.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        lr: float | int,
        input_scale: float | int = 1.0,
        output_scale: float | int = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _checked(inputs, outputs, lr, input_scale, output_scale)
        self.inputs, self.outputs, self.lr = inputs, outputs, float(lr)
        self.kernel = float(input_scale) ** 2 + float(output_scale) ** 2
        self.function: Float[Tensor, "outputs inputs"] = torch.zeros(outputs, inputs, dtype=dtype)
        self.features: Float[Tensor, "inputs inputs"] = float(input_scale) ** 2 * torch.eye(inputs, dtype=dtype)

    def step(self, objective: Objective) -> Float[Tensor, "outputs inputs"]:
        """One gradient step on `objective`; returns the gradient with respect to F."""
        gradient = _gradient(objective, self.function)
        self.function = self.function - self.lr * self.kernel * gradient
        return gradient

    def adapted(self, objective: Objective, steps: int = 1, lr: float | int | None = None) -> KernelLimit:
        """A copy after some steps on another loss, this one left as it is."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.lr = float(self.lr if lr is None else lr)
        for _ in range(steps):
            copy.step(objective)
        return copy

    def meta_step(self, tasks: list[tuple[Objective, Objective]], inner_lr: float | int) -> None:
        """One step of first-order model-agnostic meta-learning.

        Raises:
            ValueError: no task, or a loss that is not one finite number.
        """
        if not tasks:
            raise ValueError("at least one task is needed")
        change = torch.zeros_like(self.function)
        for support, query in tasks:
            there = self.adapted(support, 1, inner_lr).function
            change -= self.lr * self.kernel / len(tasks) * _gradient(query, there)
        self.function = self.function + change
