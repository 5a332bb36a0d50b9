"""M-FAC: gradient descent preconditioned by the inverse Fisher matrix of the last gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from gramian.linalg.factor.window import WindowInverse

__all__ = ["MFAC"]


class MFAC(torch.optim.Optimizer):
    r"""Steps \(\theta \leftarrow \theta - \eta\, m_t\), \(m_t = \mu m_{t-1} + \hat F^{-1} g_t\).

    \(\hat F = \lambda I + \frac1m \sum g g^\top\) over the last m gradients, the newest included; each group of
    parameters has a window of its own. Memory: m copies of the parameters.

    Args:
        lr: step length η. The preconditioned gradient has its own length: about that of \(g/(\lambda + |g|^2/m)\).
        window: m, how many gradients are kept.
        damp: λ.
        momentum: μ.
        weight_decay: added to the preconditioned gradient, as in AdamW.

    Raises:
        ValueError: a learning rate, momentum, weight decay, window or damp out of range, or a NaN gradient.

    Source: Frantar, Kurtic & Alistarh (2021), section 3 and its dynamic algorithm.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        window: int = 32,
        damp: float = 1e-5,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0:
            raise ValueError(f"lr={lr} ≥ 0, 0 ≤ momentum={momentum} < 1 and weight_decay={weight_decay} ≥ 0 are needed")
        if window < 1 or not damp > 0:
            raise ValueError(f"window={window} is at least 1 and damp={damp} positive")
        settings = {"lr": lr, "window": window, "damp": damp, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, settings)
        self._windows: dict[int, WindowInverse] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every group."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            parameters = group["params"]
            if all(p.grad is None for p in parameters):
                continue
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
            window = self._window(index, group, flat)
            direction = window.push(flat.to(window.rows.dtype)).solve_newest()
            state = self.state[parameters[0]]
            if group["momentum"]:
                velocity = state.get("velocity")
                direction = direction if velocity is None else velocity.mul_(group["momentum"]).add_(direction)
                state["velocity"] = direction
            for p, piece in zip(parameters, direction.split([p.numel() for p in parameters]), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(piece.view_as(p).to(p.dtype), alpha=-group["lr"])
        return loss

    def _window(self, index: int, group: dict[str, Any], flat: Tensor) -> WindowInverse:
        if index not in self._windows:
            dtype = torch.promote_types(flat.dtype, torch.float32)
            self._windows[index] = WindowInverse(
                group["window"], len(flat), group["damp"], dtype=dtype, device=flat.device
            )
            state = self.state[group["params"][0]]
            if "rows" in state:  # loaded from a checkpoint
                kept, pushed = state["rows"].to(flat.device, dtype), int(state["pushed"])
                for i in range(pushed - len(kept), pushed):
                    self._windows[index].push(kept[i % len(kept)])
        return self._windows[index]

    def state_dict(self) -> dict[str, Any]:
        """The state with the windows' gradients, so that a resumed training continues as if uninterrupted."""
        for index, window in self._windows.items():
            state = self.state[self.param_groups[index]["params"][0]]
            state["rows"], state["pushed"] = window.rows[: window.held], window.pushed
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; the windows are built again at the next step."""
        super().load_state_dict(state_dict)
        self._windows.clear()
