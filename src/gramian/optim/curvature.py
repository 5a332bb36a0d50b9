r"""Products with the Hessian, the Gauss–Newton matrix and the Jacobian of a network, none of them stored.

A point in parameter space is either a dictionary, parameter's name → tensor, or one flat vector in the order of a
`Layout`. The network itself is left as it was found: its parameters and buffers are replaced in a functional call, and
no gradient is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["Hessian", "Layout", "at", "ggn_vp", "gradient", "hvp", "jacobian", "loss_at"]

Loss = Callable[..., Tensor]
"""(module, *batch) → a scalar tensor; it may do nothing with the module but call it."""


class Layout:
    """The order of a module's parameters in one flat vector.

    Args:
        module: the network; shared parameters count once.
        pattern: a regular expression; parameters whose name it does not match (from the start) are left out.

    Attributes:
        names, shapes: the parameters, in the vector's order.
        size: the length of the vector.

    Raises:
        ValueError: no parameter is left, or one is complex (a real vector cannot hold it).

    >>> layout = Layout(nn.Linear(3, 2))
    >>> layout.size, layout.blocks
    (8, {'weight': slice(0, 6, None), 'bias': slice(6, 8, None)})
    """

    def __init__(self, module: nn.Module, pattern: str = "") -> None:
        chosen = [(n, p) for n, p in module.named_parameters() if re.match(pattern, n)]
        if not chosen:
            known = ", ".join(n for n, _ in module.named_parameters()) or "none"
            raise ValueError(f"no parameter matches {pattern!r}; the parameters are: {known}")
        for name, parameter in chosen:
            if not parameter.is_floating_point():
                raise ValueError(f"parameter {name} has dtype {parameter.dtype}; only real floating ones can be moved")
        self.names = tuple(n for n, _ in chosen)
        self.shapes = tuple(p.shape for _, p in chosen)
        self.blocks: dict[str, slice] = {}
        stop = 0
        for name, shape in zip(self.names, self.shapes):
            start, stop = stop, stop + math.prod(shape)
            self.blocks[name] = slice(start, stop)
        self.size = stop

    def read(self, module: nn.Module) -> Float[Tensor, " size"]:
        """A copy of the module's parameters, flat."""
        return self.flatten({n: p.detach() for n, p in module.named_parameters()})

    def flatten(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, " size"]:
        """The tensors of a dictionary as one vector.

        Raises:
            ValueError: a name that is missing, or a tensor of another shape.
        """
        missing = [n for n in self.names if n not in tensors]
        if missing:
            raise ValueError(f"the dictionary lacks {', '.join(missing)}")
        for name, shape in zip(self.names, self.shapes):
            if tensors[name].shape != shape:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(shape)}")
        return torch.cat([tensors[n].reshape(-1) for n in self.names])

    def unflatten(self, vector: Float[Tensor, " size"]) -> dict[str, Tensor]:
        """Views of a flat vector, by name and in shape.

        Raises:
            ValueError: a vector of another length.
        """
        if vector.ndim != 1 or len(vector) != self.size:
            raise ValueError(f"a vector of shape ({self.size},) is needed, not {tuple(vector.shape)}")
        return {n: vector[self.blocks[n]].view(s) for n, s in zip(self.names, self.shapes)}

    def write(self, module: nn.Module, vector: Float[Tensor, " size"]) -> None:
        """Copy a flat vector into the module's parameters."""
        values, owned = self.unflatten(vector), dict(module.named_parameters())
        with torch.no_grad():
            for name, value in values.items():
                owned[name].copy_(value)


def at(module: nn.Module, parameters: Mapping[str, Tensor]) -> Callable[..., Any]:
    """The module as a function, with `parameters` in place of its own; buffers that a call changes are copies."""
    state = dict(parameters)
    state |= {n: p.detach() for n, p in module.named_parameters() if n not in state}
    state |= {n: b.clone() for n, b in module.named_buffers() if n not in state}

    def call(*arguments: Any, **named: Any) -> Any:
        return functional_call(module, state, arguments, named)

    return call


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the loss must be one number, got {shape}; take its mean or sum")
    return value.reshape(())


def loss_at(
    module: nn.Module, loss: Loss, batch: Sequence[Any], layout: Layout, vector: Float[Tensor, " size"]
) -> Float[Tensor, ""]:
    """The loss with the flat `vector` as parameters; differentiable in it."""
    return _scalar(loss(at(module, layout.unflatten(vector)), *batch))


def gradient(
    module: nn.Module, loss: Loss, batch: Sequence[Any], layout: Layout | None = None
) -> Float[Tensor, " size"]:
    """The flat gradient of ``loss(module, *batch)``; the parameters' own ``.grad`` stays as it was."""
    layout = layout or Layout(module)
    point = layout.read(module).requires_grad_()
    with torch.enable_grad():
        value = loss_at(module, loss, batch, layout, point)
    return torch.autograd.grad(value, point)[0]


class Hessian:
    """The Hessian of a loss at one point, as a function: vector → its product.

    The gradient's graph is built once and differentiated again by every product, so that a product costs one
    backward pass.

    Args:
        module, loss, batch: what is differentiated, ``loss(module, *batch)``.
        layout: which parameters, by default all.
        point: where, as a flat vector; by default where the module stands.

    Raises:
        ValueError: a loss that is not one number, or that is not finite here.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        batch: Sequence[Any],
        layout: Layout | None = None,
        point: Float[Tensor, " size"] | None = None,
    ) -> None:
        self.layout = layout or Layout(module)
        self.size = self.layout.size
        self.point = (self.layout.read(module) if point is None else point.detach().clone()).requires_grad_()
        with torch.enable_grad():
            value = loss_at(module, loss, batch, self.layout, self.point)
            if not bool(torch.isfinite(value)):
                raise ValueError(f"the loss is {float(value.detach())} at this point: it has no Hessian")
            (self._gradient,) = torch.autograd.grad(value, self.point, create_graph=True)
        self.loss = float(value.detach())

    def __call__(self, vector: Float[Tensor, " size"]) -> Float[Tensor, " size"]:
        """H · vector."""
        if not self._gradient.requires_grad:  # the loss is linear in the parameters
            return torch.zeros_like(self.point)
        (product,) = torch.autograd.grad(
            self._gradient, self.point, vector.to(self._gradient), retain_graph=True, materialize_grads=True
        )
        return product


def _as_flat(layout: Layout, vector: Tensor | Mapping[str, Tensor]) -> Tensor:
    return vector if isinstance(vector, Tensor) else layout.flatten(vector)


def hvp(
    module: nn.Module, loss: Loss, batch: Sequence[Any], vector: Tensor | Mapping[str, Tensor]
) -> Tensor | dict[str, Tensor]:
    r"""\(\nabla^2 L(w)\, v\), flat for a flat vector, a dictionary for a dictionary.

    For many products at one point make one `Hessian`.

    Source: Pearlmutter, Fast exact multiplication by the Hessian (1994).
    """
    layout = Layout(module)
    flat = _as_flat(layout, vector)
    if len(flat) != layout.size:
        raise ValueError(f"the vector has {len(flat)} entries, the module {layout.size} parameters")
    product = Hessian(module, loss, batch, layout)(flat)
    return product if isinstance(vector, Tensor) else layout.unflatten(product)


def ggn_vp(
    module: nn.Module,
    objective: Callable[..., Tensor],
    inputs: Any,
    targets: Any,
    vector: Tensor | Mapping[str, Tensor],
) -> Tensor | dict[str, Tensor]:
    r"""The product with the generalized Gauss–Newton matrix \(J^T (\nabla^2_f \ell)\, J\), J the outputs' Jacobian.

    Args:
        objective: (outputs, targets) → a scalar, such as `torch.nn.functional.cross_entropy`.
        vector: flat or by name; the product comes back in the same form.

    Source: Schraudolph, Fast curvature matrix-vector products (2002).
    """
    layout = Layout(module)
    flat = _as_flat(layout, vector)
    point = layout.read(module)

    def outputs(w: Tensor) -> Tensor:
        return at(module, layout.unflatten(w))(inputs)

    value, tangent = torch.func.jvp(outputs, (point,), (flat.to(point),))
    value = value.detach().requires_grad_()
    with torch.enable_grad():
        (first,) = torch.autograd.grad(_scalar(objective(value, targets)), value, create_graph=True)
        curved = torch.zeros_like(value)
        if first.requires_grad:
            (curved,) = torch.autograd.grad(first, value, tangent.detach(), materialize_grads=True)
    product = torch.func.vjp(outputs, point)[1](curved)[0]
    return product if isinstance(vector, Tensor) else layout.unflatten(product)


def jacobian(
    module: nn.Module, inputs: Tensor, layout: Layout | None = None, chunk: int | None = None
) -> Float[Tensor, "rows size"]:
    """The derivatives of the outputs by the flat parameters: a row per sample and output, samples outermost.

    The module must treat samples independently (no batch statistics).

    Args:
        inputs: samples first.
        chunk: samples differentiated at once; all by default.
    """
    layout = layout or Layout(module)
    point = layout.read(module)

    def single(w: Tensor, x: Tensor) -> Tensor:
        return at(module, layout.unflatten(w))(x[None]).reshape(-1)

    rows = torch.func.vmap(torch.func.jacrev(single), in_dims=(None, 0), chunk_size=chunk)(point, inputs)
    return rows.reshape(-1, layout.size)
