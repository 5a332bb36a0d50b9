"""Training and measuring a forecaster on windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.data.windows import split_series, windows
from gramian.optim.fit import fit
from gramian.optim.memory import History

__all__ = [
    "Errors",
    "HalvingAdam",
    "Objective",
    "Trial",
    "forecast_errors",
    "prepare",
    "train_forecaster",
    "trained_errors",
]


class Errors(NamedTuple):
    """Mean squared and mean absolute error over windows, steps and channels."""

    mse: float
    mae: float


def forecast_errors(model: nn.Module, data: tuple[Tensor, ...], batch_size: int = 256) -> Errors:
    """Errors of a forecaster on windows.

    Args:
        data: inputs of the model (windows, …), the last one what it should forecast.

    Returns:
        errors that are accumulated in double precision; the model's mode is left as found.
    """
    *inputs, future = data
    squared = absolute = 0.0
    training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(future), batch_size):
            chosen = slice(start, start + batch_size)
            gap = (model(*(x[chosen] for x in inputs)) - future[chosen]).double()
            squared += float(gap.square().sum())
            absolute += float(gap.abs().sum())
    model.train(training)
    return Errors(squared / future.numel(), absolute / future.numel())


class HalvingAdam(torch.optim.Adam):
    """Adam whose learning rate is halved after every epoch but the first.

    The schedule is kept in the optimizer's own step counts, so that a resumed fit goes on with it.

    Args:
        epoch_steps: optimizer steps in an epoch.

    Raises:
        ValueError: epoch_steps below 1.

    Source: the schedule ``type1`` of the published long-term forecasting scripts.
    """

    def __init__(self, groups: Any, epoch_steps: int) -> None:
        if epoch_steps < 1:
            raise ValueError(f"epoch_steps={epoch_steps} must be at least 1")
        super().__init__(groups)
        self.epoch_steps = epoch_steps

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        done = max((int(s["step"]) for s in self.state.values() if "step" in s), default=0)
        factor = 0.5 ** max(0, done // self.epoch_steps - 1)
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = group["lr"] * factor
        try:
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate


class Objective(nn.Module):
    """A forecaster whose call is its loss: its own `training_loss` where it is trained on that, else `loss`.

    Under DistributedDataParallel gradients are averaged only where the wrapped module itself is called: a
    `training_loss` called on the bare model would leave every process with its own. The state is the model's, so
    that checkpoints do not know of this.
    """

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch: Tensor) -> Tensor:
        if self.training and hasattr(self.model, "training_loss"):
            return self.model.training_loss(*batch)
        return self.loss(self.model(*batch[:-1]), batch[-1])

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        return self.model.state_dict(*args, **options)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.model.load_state_dict(state_dict, strict, assign)


def _call(module: nn.Module, *batch: Tensor) -> Tensor:
    """`module` is an `Objective`, or what wraps one."""
    return module(*batch)


def train_forecaster(
    model: nn.Module,
    train: tuple[Tensor, ...],
    validation: tuple[Tensor, ...] | None = None,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.mse_loss,
    halve: bool = False,
    checkpoint: str | Path | None = None,
    **settings: Any,
) -> History:
    """Train a forecaster on windows with `gramian.optim.fit.fit`, on one process or on several that torchrun joins.

    Args:
        train, validation: inputs of the model (windows, …), the last one what it should forecast.
        loss: (forecast, truth) → the mean loss. A model with ``training_loss(*inputs, future)`` is trained on that.
        halve: use `HalvingAdam`.
        checkpoint, settings: as in `fit`.
    """
    if halve:
        batch_size = settings.get("batch_size", 32)
        settings["optimizer"] = lambda groups: HalvingAdam(groups, -(-len(train[-1]) // batch_size))
    settings = {"show_progress": False, "what": f"fitting {type(model).__name__}"} | settings
    objective = Objective(model, loss)
    return fit(objective, train, _call, validation=validation, checkpoint=checkpoint, **settings)


class Trial(NamedTuple):
    """The windows of one series: (past, future) of each part, in units of `std`, the training part's deviations."""

    train: tuple[Tensor, ...]
    validation: tuple[Tensor, ...]
    test: tuple[Tensor, ...]
    std: Tensor


def prepare(
    values: Float[np.ndarray, "length channels"],
    look_back: int,
    horizon: int,
    parts: Sequence[float | int] = (0.7, 0.1, 0.2),
) -> Trial:
    """Split a series in time, standardize it by its training part, and cut each part into windows."""
    split = split_series(values, look_back, parts)
    parts_of = (windows(part, look_back, horizon) for part in (split.train, split.validation, split.test))
    return Trial(*parts_of, split.std)


def trained_errors(build: Callable[[int], nn.Module], trial: Trial, seed: int = 0, **settings: Any) -> Errors:
    """Make a forecaster from a seed, train it on one thread, and measure it on the test windows.

    A model with `solve` is solved for the training windows, one with parameters trained by `train_forecaster`, and
    one without is taken as it is.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at the sizes of small series threads only wait for each other
    try:
        model = build(seed)
        if hasattr(model, "solve"):
            model.solve(*trial.train)
        elif any(p.requires_grad for p in model.parameters()):
            generator = torch.Generator().manual_seed(seed)
            train_forecaster(model, trial.train, trial.validation, generator=generator, **settings)
        return forecast_errors(model, trial.test)
    finally:
        torch.set_num_threads(threads)
