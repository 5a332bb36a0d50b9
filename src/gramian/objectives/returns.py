"""Returns of imagined or real steps."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.scan import diagonal

__all__ = ["lambda_return"]


def lambda_return(
    rewards: Float[Tensor, "batch steps"],
    values: Float[Tensor, "batch states"],
    ends: Float[Tensor, "batch steps"],
    discount: float | int = 0.985,
    trace: float | int = 0.95,
) -> Float[Tensor, "batch steps"]:
    r"""What a state is worth: a weighted mean of the returns of 1, 2, … steps, each closed by a value.

    \[ R_t = r_t + \gamma c_t\,[(1 - \lambda)\, v_{t+1} + \lambda R_{t+1}], \qquad R_T = v_T, \]

    with \(c_t = 1 - e_t\). It is a diagonal recurrence backwards in time and is run as one.

    Args:
        rewards: of each step.
        values: of the states before each step and after the last one: one more than the steps.
        ends: probability that the episode ended with the step.
        discount: γ.
        trace: λ; 0 trusts the next state's value, 1 only the last one's.

    Raises:
        ValueError: discount or trace outside [0, 1], or a number of values that does not fit.

    >>> lambda_return(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 3), torch.zeros(1, 2), 0.5, 1.0)
    tensor([[0.5000, 1.0000]])
    """
    if not (0 <= discount <= 1 and 0 <= trace <= 1):
        raise ValueError(f"discount={discount}, trace={trace}: both lie between 0 and 1")
    if values.shape[-1] != rewards.shape[-1] + 1:
        raise ValueError(f"{rewards.shape[-1]} steps need {rewards.shape[-1] + 1} values, not {values.shape[-1]}")
    going = discount * (1 - ends)
    held = rewards + going * (1 - trace) * values[:, 1:]
    returns, _ = diagonal.diagonal_scan((going * trace)[..., None], held[..., None], values[:, -1:], reverse=True)
    return returns[..., 0].to(torch.promote_types(rewards.dtype, values.dtype))
