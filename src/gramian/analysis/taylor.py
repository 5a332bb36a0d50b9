r"""A network replaced by its Taylor polynomial in the parameters, and its tangent kernel.

\[ f(w_0) + \nabla f(w_0) \cdot d \;[+ \tfrac12\, d^T \nabla^2 f(w_0)\, d], \qquad d = w - w_0, \]

as modules that train like any other: their only parameter is the flat displacement \(d\).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.optim import curvature

__all__ = ["LinearizedModel", "NotTwiceDifferentiable", "QuadraticModel", "ntk"]

_KINKED = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink,
    nn.Softshrink, nn.Threshold, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
)  # fmt: skip


class NotTwiceDifferentiable(UserWarning):
    """The network has kinks: its second derivative misses them, and the quadratic model is not a Taylor polynomial."""


def _frozen(model: nn.Module) -> nn.Module:
    """A copy whose parameters are buffers: nothing to train, and still moved and saved with the module."""
    base = copy.deepcopy(model)
    same: dict[int, Tensor] = {}
    for part in base.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                del part._parameters[name]
                part.register_buffer(name, same.setdefault(id(parameter), parameter.detach()))
    return base


class LinearizedModel(nn.Module):
    """f(w₀) + ∇f(w₀)·d: the network's first-order Taylor polynomial at its present parameters.

    The Jacobian is never stored: a call costs two backward passes.

    Args:
        model: the network, which must return one tensor; it is copied and left as it was found.

    Attributes:
        displacement: d, the only parameter, flat and zero at the start.
        layout: which entries of d belong to which of the network's parameters.

    Raises:
        ValueError: a network without parameters, or with complex ones.
    """

    displacement: nn.Parameter
    origin: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layout = curvature.Layout(model)
        self.register_buffer("origin", self.layout.read(model))
        self.base = _frozen(model)
        self.displacement = nn.Parameter(torch.zeros_like(self.origin))

    def _value(self, inputs: tuple[Any, ...]) -> Callable[[Tensor], Tensor]:
        return lambda w: curvature.at(self.base, self.layout.unflatten(w))(*inputs)

    def _along(self, function: Callable[[Tensor], Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
        """A function's value and its derivative along d, as the transpose of the transpose: u ↦ Jᵀu is linear in u.

        Nested, this is several times faster than forward mode, whose shape checks run in Python at the second level.
        """
        value, pull = torch.func.vjp(function, point)
        _, push = torch.func.vjp(pull, torch.zeros_like(value))
        return value, push((self.displacement,))[0]

    def forward(self, *inputs: Any) -> Tensor:
        value, first = self._along(self._value(inputs), self.origin)
        return value + first

    def network(self) -> nn.Module:
        """The network itself at w₀ + d: what the polynomial stands for."""
        model = copy.deepcopy(self.base)
        for name, value in self.layout.unflatten((self.origin + self.displacement).detach()).items():
            owner, _, leaf = name.rpartition(".")
            part = model.get_submodule(owner)
            del part._buffers[leaf]
            part.register_parameter(leaf, nn.Parameter(value.clone()))
        return model


class QuadraticModel(LinearizedModel):
    r"""\(f(w_0) + \nabla f \cdot d + \tfrac12 d^T \nabla^2 f\, d\): the network's second-order Taylor polynomial.

    No Hessian is stored: a call costs two nested pairs of backward passes, whatever the number of outputs.

    Warns `NotTwiceDifferentiable` where the network holds a layer with kinks, such as `torch.nn.ReLU`.

    Source: Zhu et al., Quadratic models for understanding neural network dynamics (2022), definition 1.

    >>> model = QuadraticModel(nn.Bilinear(2, 2, 1).double())
    >>> x = torch.ones(3, 2, dtype=torch.float64)
    >>> model(x, x).shape
    torch.Size([3, 1])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        kinked = sorted({type(m).__name__ for m in model.modules() if isinstance(m, _KINKED)})
        if kinked:
            warnings.warn(
                f"the network contains {', '.join(kinked)}, whose second derivative is zero or absent; "
                "use a smooth activation (Tanh, GELU, SiLU, Softplus) for a quadratic model",
                NotTwiceDifferentiable,
                stacklevel=2,
            )

    def forward(self, *inputs: Any) -> Tensor:
        network = self._value(inputs)
        first, second = self._along(lambda w: self._along(network, w)[1], self.origin)
        return network(self.origin) + first + 0.5 * second


def ntk(model: nn.Module, inputs: Tensor, others: Tensor | None = None) -> Float[Tensor, "rows columns"]:
    r"""The empirical tangent kernel \(\nabla f(x) \cdot \nabla f(x')\).

    Args:
        model: treats samples independently (no batch statistics).
        inputs: samples first; a row per sample and output, samples outermost.
        others: the columns' samples, by default the same.

    Source: Jacot, Gabriel and Hongler, Neural Tangent Kernel (2018), section 4.
    """
    rows = curvature.jacobian(model, inputs)
    return rows @ (rows if others is None else curvature.jacobian(model, others)).mT
