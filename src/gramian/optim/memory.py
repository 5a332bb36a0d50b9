"""What a fit remembers: its history, its best weights, and where to continue."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gramian.optim.checkpoint import load_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer

if TYPE_CHECKING:
    import pandas


@dataclass
class History:
    """What a fit left behind.

    Attributes:
        rows: one dictionary a round: ``epoch``, ``step``, ``seconds``, ``lr``, ``loss``, the loss's further
            metrics, and the same under ``validation_…``.
        steps: optimizer steps taken.
        best: the row with the best monitored value (the last one without validation).
        stopped: ``"done"`` or ``"patience"``.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    best: dict[str, float] = field(default_factory=dict)
    stopped: str = "done"

    @property
    def frame(self) -> pandas.DataFrame:
        """The rows as a data frame."""
        import pandas

        return pandas.DataFrame(self.rows)

    def __getitem__(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]


class Memory:
    """History, best weights and checkpoints of one fit.

    Args:
        path: the checkpoint file to write after every round, if any.
        validated: whether rows hold validation figures, which decide what is best.
        seed: round r shuffles with seed + r, so that where to continue is the number of the round.
        settings: what must be the same for a checkpoint to be continued.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        monitor: str,
        path: str | Path | None,
        validated: bool,
        *,
        seed: int,
        settings: dict[str, Any],
    ) -> None:
        self.module, self.optimizer, self.scheduler = module, optimizer, scheduler
        self.sign = -1.0 if monitor.startswith("-") else 1.0
        self.monitor = ("validation_" if validated else "") + monitor.removeprefix("-")
        self.path, self.validated, self.seed, self.settings = path, validated, seed, settings
        self.history = History()
        self.best_weights: dict[str, Tensor] = {}

    def finished(self, epochs: int | None, steps: int | None, patience: int | None) -> bool:
        history = self.history
        if patience is not None and history.rows and history.rows[-1]["epoch"] - history.best["epoch"] >= patience:
            history.stopped = "patience"
            return True
        return len(history.rows) >= epochs if epochs is not None else history.steps >= (steps or 0)

    def keep(self, row: dict[str, float]) -> None:
        """Add a round's row; keep the weights if it is the best so far; write the checkpoint."""
        history = self.history
        history.rows.append(row)
        if self.monitor not in row:
            names = ", ".join(name.removeprefix("validation_") for name in row)
            raise ValueError(f"monitor={self.monitor!r} is not measured; the loss gives {names}")
        value = self.sign * row[self.monitor]
        # a NaN never counts as an improvement, so the weights restored are of a round that was measured
        improved = not history.best or value < self.sign * history.best[self.monitor]
        if not self.validated or (improved and not math.isnan(value)):
            history.best = row
            if self.validated:
                self.best_weights = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        if self.path is not None:
            self._save(self.path)

    def restore_best(self) -> None:
        if self.best_weights:
            self.module.load_state_dict(self.best_weights)

    def _save(self, path: str | Path) -> None:
        tensors, rest = pack_optimizer(self.optimizer)
        tensors |= {f"module/{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best_weights.items()}
        tensors["random"] = torch.get_rng_state()
        header = {
            "settings": self.settings,
            "seed": self.seed,
            "optimizer": rest,
            "scheduler_step": self.scheduler.last_epoch,
            "rows": self.history.rows,
            "best": self.history.best,
            "steps": self.history.steps,
        }
        save_checkpoint(path, tensors, header)

    def resume(self, path: str | Path) -> None:
        """Continue from `path`.

        Raises:
            ValueError: the checkpoint was left by a fit with other settings or another module.
        """
        tensors, header = load_checkpoint(path)
        if header.get("settings") != self.settings:
            raise ValueError(
                f"{path} was left by a fit with {header.get('settings')}, this one has {self.settings}; "
                "delete the file to start afresh, or give another checkpoint="
            )
        weights = _under(tensors, "module/")
        expected = {k: v.shape for k, v in self.module.state_dict().items()}
        if {k: v.shape for k, v in weights.items()} != expected:
            raise ValueError(f"{path} was left by a fit of another module: its weights have other names or shapes")
        self.module.load_state_dict(weights)
        unpack_optimizer(self.optimizer, tensors, header["optimizer"])
        self.scheduler.last_epoch = header["scheduler_step"]
        self.best_weights = _under(tensors, "best/")
        self.seed = header["seed"]
        self.history.rows, self.history.best, self.history.steps = header["rows"], header["best"], header["steps"]
        torch.set_rng_state(tensors["random"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
