"""How many hidden units answer an input: shares of non-zeros, and of dead (unit, input) pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.analysis.reducers import ZeroCount
from gramian.analysis.taps import Taps

__all__ = ["Activity", "activity", "dead_rate", "drift_statistic", "nonzero_share", "rectifiers"]

_RECTIFIERS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6)


@dataclass
class Activity:
    """How often the units of one layer are zero.

    Attributes:
        zero: for each unit, the share of samples (tokens, places) at which it is zero.
    """

    zero: Float[Tensor, " units"]

    @property
    def nonzero(self) -> float:
        """The share of non-zeros among all pairs of a unit and a sample."""
        return float(1 - self.zero.mean())

    @property
    def dynamic_dead_rate(self) -> float:
        """The share of pairs of a unit and a sample at which the unit is zero."""
        return float(self.zero.mean())

    @property
    def static_dead_rate(self) -> float:
        """The share of units that are zero for every sample."""
        return float((self.zero == 1).double().mean())

    def histogram(self, bins: int = 10) -> Float[Tensor, " bins"]:
        """How many units are non-zero in 0 … 1 of the samples, in `bins` equal classes."""
        return torch.histc(1 - self.zero, bins, 0, 1)


def rectifiers(model: nn.Module) -> tuple[str, ...]:
    """The names of the layers that give exact zeros: ReLU and its like, and modules marked ``gives_zeros = True``.

    Raises:
        ValueError: there is none.
    """
    names = tuple(n for n, m in model.named_modules() if _gives_zeros(m))
    if not names:
        raise ValueError(
            "the model has no layer that gives exact zeros (ReLU or its like as a module): name its activations in "
            "layers= and give a threshold= above 0"
        )
    return names


def activity(
    model: nn.Module,
    batches: Iterable[Tensor],
    layers: Iterable[str] | None = None,
    *,
    threshold: float | int = 0.0,
    channels_first: bool = False,
) -> dict[str, Activity]:
    """How often each unit of each layer is zero over the batches, in evaluation mode and without gradient.

    Args:
        batches: inputs of the model.
        layers: names of modules whose outputs to count; by default the `rectifiers`.
        threshold: sizes up to it count as zero; above 0 it serves activations without exact zeros.
        channels_first: whether outputs are (batch, units, …) instead of (batch, …, units).

    Raises:
        ValueError: no batch, or a layer without exact zeros counted at threshold 0.

    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [-1.0]])), model[0].bias.data.zero_()
    >>> activity(model, [torch.tensor([[1.0], [2.0], [-1.0]])])["1"].zero
    tensor([0.3333, 0.6667], dtype=torch.float64)
    """
    names = rectifiers(model) if layers is None else tuple(layers)
    if threshold == 0:
        for name in names:
            part = model.get_submodule(name)
            if not _gives_zeros(part):
                raise ValueError(
                    f"{name}, a {type(part).__name__}, gives no exact zeros: give a threshold= above 0 to count small "
                    "values instead"
                )
    modes = {m: m.training for m in model.modules()}
    model.eval()
    reduce = "places" if channels_first else "tokens"
    taps = Taps(model, {n: [ZeroCount(float(threshold))] for n in names}, side="out", reduce=reduce)
    try:
        with taps, torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for module, mode in modes.items():
            module.training = mode
    counters = {n: taps[n][0] for n in names}
    if any(c.count == 0 for c in counters.values()):
        raise ValueError("the batches are empty: there is nothing to count zeros over")
    return {n: Activity(c.sparsity) for n, c in counters.items() if isinstance(c, ZeroCount)}


def _gives_zeros(module: nn.Module) -> bool:
    return isinstance(module, _RECTIFIERS) or bool(getattr(module, "gives_zeros", False))


def nonzero_share(model: nn.Module, batches: Iterable[Tensor], layers: Iterable[str] | None = None) -> list[float]:
    """The share of non-zeros of each layer, first to last."""
    return [a.nonzero for a in activity(model, batches, layers).values()]


def dead_rate(model: nn.Module, batches: Iterable[Tensor], dynamic: bool = True) -> float:
    """The share of dead pairs of a unit and an input (dynamic), or of units dead for all inputs (static)."""
    layers = activity(model, batches).values()
    units = sum(len(a.zero) for a in layers)
    return sum((a.dynamic_dead_rate if dynamic else a.static_dead_rate) * len(a.zero) for a in layers) / units


def drift_statistic(
    hidden: Float[Tensor, " hidden"], classes: int, draws: int, generator: torch.Generator, *,
    loss: str = "cross_entropy", batch: int = 5000,
) -> Float[Tensor, " hidden"]:  # fmt: skip
    r"""The t statistic of \(\mathbb E_V[\partial L / \partial h_i]\) for logits \(V h\), V normal over √hidden.

    Where it is large and positive, gradient descent on the layer before lowers that hidden unit on average, whatever
    the label: the reason the paper gives for the sparsity of activations.

    Args:
        hidden: activations after the ReLU.
        draws: how many V, each with a label drawn uniformly.
        loss: ``"cross_entropy"``, or ``"mse"`` against the one-hot label.

    Raises:
        ValueError: fewer than two classes or draws, or an unknown loss.

    Source: Li et al. (2022), section 3 (theorem 3.1).
    """
    if classes < 2 or draws < 2:
        raise ValueError(f"classes={classes} and draws={draws} must be at least 2")
    if loss not in ("cross_entropy", "mse"):
        raise ValueError(f"loss={loss!r} is not 'cross_entropy' or 'mse'")
    total = torch.zeros(2, len(hidden), dtype=torch.float64)
    for start in range(0, draws, batch):
        count = min(batch, draws - start)
        matrix = torch.randn(count, classes, len(hidden), generator=generator) / len(hidden) ** 0.5
        label = torch.randint(classes, (count,), generator=generator)
        h = hidden.float().expand(count, -1).clone().requires_grad_()
        logits = torch.einsum("nch,nh->nc", matrix, h)
        if loss == "mse":
            value = (logits - F.one_hot(label, classes)).square().sum() / 2
        else:
            value = F.cross_entropy(logits, label, reduction="sum")
        (slope,) = torch.autograd.grad(value, h)
        total += torch.stack([slope.double().sum(0), slope.double().square().sum(0)])
    mean = total[0] / draws
    deviation = (total[1] / draws - mean.square()).sqrt()
    return mean / deviation * draws**0.5
