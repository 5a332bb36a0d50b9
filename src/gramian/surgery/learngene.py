"""Learngenes: take the common components out of a trained network, and put new classes' components beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.factored import GatedSVDLinear

__all__ = ["expand", "extract", "gated_layers", "train_only"]


def gated_layers(model: nn.Module) -> dict[str, GatedSVDLinear]:
    """The layers of gated components, by name.

    Raises:
        ValueError: there is none.
    """
    found = {n: m for n, m in model.named_modules() if isinstance(m, GatedSVDLinear)}
    if not found:
        raise ValueError("the model has no layer of gated components (GatedSVDLinear): there are no learngenes")
    return found


def extract(model: nn.Module) -> dict[str, Float[Tensor, "..."]]:
    """The learngenes: copies of every tensor of the model's state, the tailors cut off."""
    state = {n: t.detach().clone() for n, t in model.state_dict().items()}
    for name, layer in gated_layers(model).items():
        prefix, k = f"{name}." if name else "", layer.common
        state[f"{prefix}up"] = state[f"{prefix}up"][:, :k].clone()
        state[f"{prefix}scale"] = state[f"{prefix}scale"][:k].clone()
        state[f"{prefix}down"] = state[f"{prefix}down"][:k].clone()
    return state


def expand(
    learngenes: Mapping[str, Float[Tensor, "..."]], build: Callable[[], nn.Module], *, classless: Iterable[str] = ()
) -> nn.Module:
    """A new network with the learngenes in place and fresh tailors.

    Args:
        learngenes: what `extract` gave.
        build: makes the new network: same common components, any number of tailors and classes.
        classless: names of tensors that belong to the old classes and stay fresh, such as a class embedding.

    Raises:
        ValueError: tensors that do not fit: another number of common components, or another shape.
    """
    model, skipped = build(), set(classless)
    state, layers = model.state_dict(), gated_layers(model)
    for name, tensor in learngenes.items():
        if name in skipped:
            continue
        if name not in state:
            raise ValueError(f"the new network has no {name!r}, which is among the learngenes")
        owner, _, leaf = name.rpartition(".")
        target = state[name]
        if owner in layers and leaf in ("up", "scale", "down"):
            k = layers[owner].common
            target = target[:, :k] if leaf == "up" else target[:k]
        if target.shape != tensor.shape:
            raise ValueError(f"{name}: learngenes of shape {tuple(tensor.shape)}, room for {tuple(target.shape)}")
        target.copy_(tensor)
    return model


def train_only(model: nn.Module, names: Iterable[str] = (), *, components: bool = True) -> int:
    """Freeze a network but for its tailors and the parameters named; returns how many numbers are trained.

    The factors of learngenes and tailors lie in one tensor: gradients of the learngenes' rows are set to zero by a
    hook, so that an optimizer without weight decay leaves them bit for bit as they were.

    Args:
        names: beginnings of names of further parameters to train.
        components: whether the tailors are trained.

    Raises:
        ValueError: a beginning that no parameter has.
    """
    names = tuple(names)
    own = dict(model.named_parameters())
    unknown = [n for n in names if not any(p.startswith(n) for p in own)]
    if unknown:
        raise ValueError(f"no parameter's name begins with {', '.join(unknown)}")
    trained = 0
    for name, parameter in own.items():
        parameter.requires_grad_(name.startswith(names) if names else False)
        trained += parameter.numel() if parameter.requires_grad else 0
    if not components:
        return trained
    for layer in gated_layers(model).values():
        k = layer.common
        for parameter, axis in ((layer.up, 1), (layer.scale, 0), (layer.down, 0)):
            parameter.requires_grad_(True)
            still = torch.arange(parameter.shape[axis], device=parameter.device) < k
            still = still.view(-1, *(1,) * (parameter.ndim - 1 - axis))
            parameter.register_hook(lambda g, still=still: g.masked_fill(still, 0))
            trained += parameter.numel() * (layer.components - k) // layer.components
    return trained
