"""Which parameters of a network are meant, and whether a Fisher matrix of it makes sense."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from torch import nn

_MIXING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def chosen(model: nn.Module, params: str | tuple[str, ...] | re.Pattern) -> dict[str, nn.Parameter]:
    """The trainable parameters whose names match: shell patterns, or a compiled regular expression.

    A parameter under several names is chosen if any of them matches, and goes by its first.

    Raises:
        ValueError: nothing matches, all that matches is frozen, or a match is on the meta device or not real.
    """

    def matches(name: str) -> bool:
        if isinstance(params, re.Pattern):
            return params.search(name) is not None
        return any(fnmatchcase(name, p) for p in ((params,) if isinstance(params, str) else params))

    found: dict[int, tuple[str, nn.Parameter]] = {}
    wanted: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), (name, parameter))
        if matches(name):
            wanted.add(id(parameter))
    if not wanted:
        some = ", ".join(name for name, _ in list(found.values())[:6])
        raise ValueError(f"no parameter matches {params!r}; some names are {some or '(none)'}")
    picked = {name: p for key, (name, p) in found.items() if key in wanted and p.requires_grad}
    if not picked:
        raise ValueError(f"every parameter that matches {params!r} is frozen: call requires_grad_(True) on those meant")
    for name, parameter in picked.items():
        if parameter.is_meta:
            raise ValueError(f"{name!r} is on the meta device and has no values: load the weights first")
        if not parameter.dtype.is_floating_point:
            raise ValueError(f"{name!r} is {parameter.dtype}; only real parameters have a Fisher matrix here")
    return picked


def check_modes(model: nn.Module) -> None:
    """Refuse layers whose output of one sample depends on the others, or on chance.

    Raises:
        ValueError: a batch norm or a dropout in training mode.
    """
    for name, module in model.named_modules():
        active = module.training and isinstance(module, _MIXING)
        if active and getattr(module, "p", 1.0) > 0:
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) is in training mode: samples have gradients of their "
                "own only in evaluation mode; call model.eval() first"
            )
