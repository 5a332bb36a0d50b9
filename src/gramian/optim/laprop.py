"""LaProp: momentum of gradients that are already scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["LaProp"]


class LaProp(torch.optim.Optimizer):
    r"""Adam with its two parts in the other order: each gradient is first scaled, then joins the momentum.

    \[ n_t = \beta_2 n_{t-1} + (1 - \beta_2) g_t^2, \qquad
       m_t = \beta_1 m_{t-1} + (1 - \beta_1)\,\eta_t\, \frac{g_t}{\sqrt{n_t / (1 - \beta_2^t)} + \epsilon}, \qquad
       \theta_t = \theta_{t-1} - \frac{m_t}{1 - \beta_1^t}. \]

    In Adam a gradient's share in the momentum is scaled anew at each later step, and one large gradient shrinks what
    the earlier ones left; here it does not.

    Args:
        params: parameters or groups of them.
        lr: η.
        betas: β₁ and β₂.
        eps: ε. It may be tiny, as no gradient can exceed its own scale by more than \(1/\sqrt{1 - \beta_2}\).
        weight_decay: decoupled: each step first multiplies the parameters by 1 - η · weight_decay.

    Raises:
        ValueError: a setting out of its range, or a sparse gradient.

    Source: Ziyin, Wang and Ueda, "LaProp: Separating Momentum and Adaptivity in Adam" (2020), algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
    ) -> None:
        if not (lr >= 0 and eps >= 0 and weight_decay >= 0):
            raise ValueError(f"lr={lr}, eps={eps}, weight_decay={weight_decay}: none may be negative")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={tuple(betas)}: both lie in [0, 1)")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what `closure` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.is_sparse:
                    raise ValueError("LaProp takes dense gradients only; embed with sparse=False")
                state = self.state[parameter]
                if not state:
                    wide = torch.promote_types(parameter.dtype, torch.float32)
                    state["step"] = 0
                    state["momentum"] = torch.zeros_like(parameter, dtype=wide)
                    state["square"] = torch.zeros_like(parameter, dtype=wide)
                state["step"] += 1
                momentum, square = state["momentum"], state["square"]
                gradient = gradient.to(square.dtype)
                square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                scale = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
                # where all gradients were zero, so is the scaled one, even with eps=0
                scaled = torch.where(gradient == 0, gradient, gradient / scale)
                momentum.mul_(beta1).add_(scaled, alpha=(1 - beta1) * lr)
                if group["weight_decay"]:
                    parameter.mul_(1 - lr * group["weight_decay"])
                parameter.sub_((momentum / (1 - beta1 ** state["step"])).to(parameter.dtype))
        return loss
