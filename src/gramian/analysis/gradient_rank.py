r"""How many directions a gradient has: stable and effective ranks of weights' gradients during training."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["GradientRanks", "stable_rank"]


def stable_rank(matrix: Float[Tensor, "rows columns"]) -> float:
    r"""\(\|A\|_F^2 / \|A\|_2^2\): between 1 and the rank; 0 for a matrix of zeros.

    Raises:
        ValueError: NaN or infinity.

    >>> stable_rank(torch.eye(5))
    5.0
    """
    work = matrix.detach()
    work = work if work.dtype in (torch.float32, torch.float64) else work.float()
    if not bool(torch.isfinite(work).all()):
        raise ValueError("the matrix holds NaN or infinity")
    scale = work.abs().max()
    if not bool(scale > 0):
        return 0.0
    work = work / scale  # squares of tiny gradients would vanish
    small = work if work.shape[0] <= work.shape[1] else work.mT
    largest = torch.linalg.eigvalsh((small @ small.mT).double())[-1]
    return float(work.double().square().sum() / largest)


class GradientRanks:
    """Records the stable rank of every matching weight's gradient, each time `record` is called after a backward pass.

    Args:
        model: whose gradients; parameters that are not matrices are left out.
        params: patterns of the parameters' names.

    Attributes:
        steps: for each parameter, its stable ranks so far.

    Raises:
        ValueError: no matrix matches.
    """

    def __init__(self, model: nn.Module, params: str | Iterable[str] = "*") -> None:
        patterns = (params,) if isinstance(params, str) else tuple(params)
        self._parameters = {
            n: p for n, p in model.named_parameters() if p.ndim == 2 and any(fnmatchcase(n, q) for q in patterns)
        }
        if not self._parameters:
            raise ValueError(f"no matrix among the parameters matches {', '.join(patterns)}")
        self.steps: dict[str, list[float]] = {n: [] for n in self._parameters}

    def record(self) -> None:
        """Take the stable ranks of the gradients as they are; a parameter without one is passed over."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self.steps[name].append(stable_rank(parameter.grad))

    def mean(self, name: str) -> float:
        """The mean stable rank of one parameter's gradients.

        Raises:
            ValueError: none was recorded.
        """
        values = self.steps[name]
        if not values:
            raise ValueError(f"no gradient of {name} was recorded")
        return sum(values) / len(values)
