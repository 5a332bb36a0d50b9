"""Where a fit runs: one process, or accelerate's processes, behind the same few verbs."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn


class Place:
    """The device and the processes of a fit.

    accelerate is imported only where several processes were started (``torchrun``): on one process it
    would add nothing but its import.
    """

    def __init__(self, device: str | torch.device | None, module: nn.Module) -> None:
        self.accelerator: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator(cpu=device is not None and torch.device(device).type == "cpu")
            self.device = self.accelerator.device
        else:
            held = next((p.device for p in module.parameters()), torch.device("cpu"))
            self.device = torch.device(device) if device is not None else held
        self.process = int(self.accelerator.process_index) if self.accelerator else 0
        self.processes = int(self.accelerator.num_processes) if self.accelerator else 1

    def prepare(self, module: nn.Module) -> nn.Module:
        module.to(self.device)
        return self.accelerator.prepare_model(module) if self.accelerator else module

    def prepare_loader(self, loader: Any) -> Any:
        return self.accelerator.prepare_data_loader(loader) if self.accelerator else loader

    def backward(self, loss: Tensor) -> None:
        if self.accelerator:
            self.accelerator.backward(loss)
        else:
            loss.backward()

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        return self.accelerator.reduce(values, reduction="sum") if self.accelerator else values

    def move(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(b.to(self.device) if isinstance(b, Tensor) else b for b in batch)

    def wait(self) -> None:
        if self.accelerator:
            self.accelerator.wait_for_everyone()


class Means:
    """Means of named figures, weighted by batch size, over batches and processes."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.names: list[str] = []
        self.sums = torch.zeros(0, dtype=torch.float64)
        self.count = 0.0

    def add(self, values: dict[str, Any], weight: float) -> None:
        if not self.names:
            self.names = list(values)
            self.sums = torch.zeros(len(values), dtype=torch.float64)
        figures = [v.detach() if isinstance(v, Tensor) else torch.tensor(float(v)) for v in values.values()]
        self.sums += weight * torch.stack([f.to("cpu", torch.float64) for f in figures])
        self.count += weight

    def read(self) -> dict[str, float]:
        packed = torch.cat([self.sums, torch.tensor([self.count], dtype=torch.float64)])
        *sums, count = self.place.total(packed.to(self.place.device)).tolist()
        return {name: value / count for name, value in zip(self.names, sums)}
