r"""Hold every nonlinear unit of a network at what it does for one input: what is left is affine.

A unit is frozen in the way that keeps the answer for this input: ReLU and its kin keep which places pass, max pooling
which place won, smooth units keep their gain \(g = f(x)/x\), attention keeps its weights, normalization its divisor,
a sigmoid its value, clipping adds its bound as a constant. The network's own code runs unchanged: `Frozen` stands
between it and torch's functions, so that modules, methods and plain function calls are all seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gramian.analysis.explain.units import AFFINE, UNITS, Unsupported, depends, name_of, tensors

__all__ = ["Frozen", "Unsupported", "check_evaluation", "parameters_at_rest"]

Record = tuple[Any, Any]


class Frozen(TorchFunctionMode):
    """Run a network with its nonlinear units frozen.

    Without `records` a forward pass of a tensor that asks for its gradient freezes every unit at what it does there,
    and remembers it in `records`; outputs are the network's own, gradients are those of the frozen network. With
    `records` of an earlier pass the units act as they did then, whatever goes in.

    Args:
        records: of an earlier pass; None to freeze at what comes.

    Raises:
        Unsupported: in a pass, a function of the input that is neither affine nor among the units known here, or a
            product of two things that both depend on the input.
        RuntimeError: in a pass with records, a network that takes another path than when it was frozen.
    """

    def __init__(self, records: list[Record] | None = None) -> None:
        super().__init__()
        self.replay = records is not None
        self.records: list[Record] = [] if records is None else records
        self._at = 0

    def __enter__(self) -> Frozen:
        self._at = 0
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = UNITS.get(func)
        if rule is not None:
            return self._unit(func, rule, args, kwargs)
        if self.replay or not depends(args, kwargs):
            return func(*args, **kwargs)
        special = self.affine(func, args, kwargs)
        out = func(*args, **kwargs) if special is None else special
        if special is None and func not in AFFINE and any(t.requires_grad for t in tensors(out)):
            raise Unsupported(
                f"{name_of(func)} depends on the input and is neither affine nor a unit that can be frozen; units are "
                f"{', '.join(sorted({f.__name__ for f in UNITS if getattr(f, '__module__', '') == F.__name__}))}"
            )
        return out

    def affine(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        """What takes the place of an affine function of the input; None to let it be."""
        return None

    def _unit(self, func: Any, rule: Rule, args: Any, kwargs: Any) -> Any:
        remember, act = rule
        if self.replay:
            if self._at >= len(self.records) or self.records[self._at][0] is not func:
                raise RuntimeError(
                    f"the network calls {name_of(func)} where it did not when it was frozen: its path depends on its "
                    "input, or the input's shape changed"
                )
            state = self.records[self._at][1]
            self._at += 1
        else:
            state = remember(func, args, kwargs) if depends(args, kwargs) else None
            self.records.append((func, state))
        return func(*args, **kwargs) if state is None else act(state, func, args, kwargs)


def check_evaluation(model: nn.Module) -> None:
    """Raises `ValueError` where a dropout or batch normalization is in training mode: each pass would differ."""
    for name, module in model.named_modules():
        if module.training and isinstance(module, (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)):
            raise ValueError(f"{name or 'the model'} ({type(module).__name__}) is in training mode: call model.eval()")


@contextmanager
def parameters_at_rest(model: nn.Module) -> Iterator[None]:
    """No parameter asks for its gradient while the block runs: only what depends on the input does."""
    asked = [p for p in model.parameters() if p.requires_grad]
    for p in asked:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asked:
            p.requires_grad_(True)
