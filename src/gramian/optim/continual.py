"""Learning a second task without losing the first: a pull towards earlier weights, stiff where they matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["FisherAnchor", "decaying"]

Schedule = Callable[[int], float]


def decaying(initial: float = 0.9, floor: float = 0.2, total: int = 20) -> Schedule:
    r"""The strength \(\lambda_t = \max(\text{floor},\ \text{initial}\,(1 - t / \text{total}))\) at time t = 0, 1, ….

    Raises:
        ValueError: a negative strength, or a total below 1.

    >>> [round(decaying()(t), 3) for t in (0, 10, 19, 30)]
    [0.9, 0.45, 0.2, 0.2]
    """
    if not (initial >= 0 and floor >= 0) or total < 1:
        raise ValueError(f"initial={initial} ≥ 0, floor={floor} ≥ 0 and total={total} ≥ 1 are needed")
    return lambda time: max(floor, initial * (1 - time / total))


class FisherAnchor:
    r"""The penalty \(\lambda_t \sum_i F_i (\theta_i - \theta^0_i)^2\) on moving away from earlier weights.

    The gradient is \(2 \lambda_t F_i (\theta_i - \theta^0_i)\); on a quadratic loss
    \(\tfrac12 (\theta - b)^\top A (\theta - b)\) the minimiser is
    \((A + 2 \lambda F)^{-1} (A b + 2 \lambda F \theta^0)\). Weights that are not named are free.

    Args:
        fisher: parameter name → diagonal Fisher matrix of the earlier task, in the parameter's shape.
        theta0: parameter name → earlier weights (copied).
        schedule: the strength λ, or a function of time (epochs, by custom) such as `decaying` returns.

    Raises:
        ValueError: the names or shapes of the two differ, nothing is named, a Fisher entry is negative or NaN, or a
            strength is.

    Source: Kirkpatrick et al. (2017), equation 3 (with λ for their λ / 2); Niu et al. (2022), equation 9.

    >>> anchor = FisherAnchor({"weight": torch.ones(1, 2)}, {"weight": torch.zeros(1, 2)}, 0.5)
    >>> float(anchor({"weight": torch.tensor([[1.0, 3.0]])}))
    5.0
    """

    def __init__(
        self, fisher: Mapping[str, Tensor], theta0: Mapping[str, Tensor], schedule: float | int | Schedule = 1.0
    ) -> None:
        if not fisher:
            raise ValueError("the Fisher matrix is empty: it must name at least one parameter")
        if set(fisher) != set(theta0):
            odd = ", ".join(sorted(set(fisher) ^ set(theta0))[:5])
            raise ValueError(f"fisher and theta0 must name the same parameters; only one of them has {odd}")
        for name, values in fisher.items():
            if values.shape != theta0[name].shape:
                shapes = f"{tuple(values.shape)} in fisher, {tuple(theta0[name].shape)} in theta0"
                raise ValueError(f"{name!r} has shape {shapes}: both are those of the parameter")
            if not bool((values >= 0).all()):
                raise ValueError(f"fisher is negative or NaN at {name!r}: a mean of squares is neither")
        self.fisher = {name: values.detach().clone() for name, values in fisher.items()}
        self.theta0 = {name: theta0[name].detach().clone() for name in fisher}
        self.schedule = schedule
        self.strength(0)

    @classmethod
    def of(cls, model: nn.Module, fisher: Mapping[str, Tensor], schedule: float | int | Schedule = 1.0) -> FisherAnchor:
        """An anchor at the present weights of a network.

        Raises:
            ValueError: the Fisher matrix names a parameter that the network does not have.
        """
        found = _named(model)
        _check_names(fisher, found)
        return cls(fisher, {name: found[name] for name in fisher}, schedule)

    def strength(self, time: int) -> float:
        """λ at a time.

        Raises:
            ValueError: it is negative or NaN.
        """
        value = float(self.schedule(time)) if callable(self.schedule) else float(self.schedule)
        if not value >= 0:
            raise ValueError(f"the strength at time {time} is {value}: it must not be negative")
        return value

    def distance(self, model: nn.Module | Mapping[str, Tensor]) -> Float[Tensor, ""]:
        r"""\(\sum_i F_i (\theta_i - \theta^0_i)^2\), without the strength."""
        parameters = _named(model)
        _check_names(self.fisher, parameters)
        parts = []
        for name, importance in self.fisher.items():
            now = parameters[name]
            if now.shape != importance.shape:
                shapes = f"{tuple(now.shape)}, its Fisher matrix {tuple(importance.shape)}"
                raise ValueError(f"{name!r} has shape {shapes}: another architecture")
            wide = torch.promote_types(now.dtype, torch.float32)
            moved = now.to(wide) - self.theta0[name].to(now.device, wide)
            parts.append((importance.to(now.device, wide) * moved.square()).sum())
        return torch.stack(parts).sum()

    def __call__(self, model: nn.Module | Mapping[str, Tensor], time: int = 0) -> Float[Tensor, ""]:
        """The penalty at a time, differentiable in the parameters.

        Args:
            model: a network, or its parameters by name.

        Raises:
            ValueError: a name or a shape is not the network's.
        """
        return self.strength(time) * self.distance(model)

    def added_to(self, loss: Callable[..., Any], steps_per_epoch: int = 1) -> Callable[..., Any]:
        """A loss for `fit`: the given one plus the penalty, whose time advances every `steps_per_epoch` training steps.

        Losses measured without gradient (validation) do not advance it, and get the penalty of the present time.
        """
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch={steps_per_epoch} must be at least 1")
        steps = 0

        def anchored(module: nn.Module, *batch: Any) -> Any:
            nonlocal steps
            result = loss(module, *batch)
            penalty = self(module, steps // steps_per_epoch)
            steps += torch.is_grad_enabled()
            if isinstance(result, tuple):
                value, metrics = result
                return value + penalty, {**metrics, "anchor": penalty.detach()}
            return result + penalty

        return anchored


def _named(model: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not isinstance(model, nn.Module):
        return model
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    return dict(model.named_parameters())


def _check_names(fisher: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    unknown = [name for name in fisher if name not in parameters]
    if unknown:
        some = ", ".join(list(parameters)[:5])
        raise ValueError(f"the Fisher matrix names {', '.join(unknown[:5])}; parameters here are {some}")
