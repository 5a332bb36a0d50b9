"""Input and output projections of a selective scan whose product is definite by construction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gramian.nn.state.mamba import Mamba

__all__ = ["SIGNS", "DefiniteProjection", "make_definite"]

SIGNS = ("positive", "negative", "mixed")
_FLOOR = 0.7


class DefiniteProjection(nn.Module):
    r"""A weight of rows [rest; S_B; S_C] with \(S_C = U\), \(S_B = D U\).

    \(D = \mathrm{diag}(\pm(\mathrm{softplus}(d) + 0.7))\). U (states × channels) has ones on its diagonal and zeros
    below it, so that \(S_C^T S_B = U^T D U\) has as many positive (or negative) eigenvalues as D, whatever the
    optimizer does.

    Args:
        rest: rows before those of S_B (Mamba's step sizes), left free.
        states: rows of S_B, and of S_C.
        sign: ``"positive"``, ``"negative"``, or ``"mixed"`` (of the rows, every other is negative).

    Raises:
        ValueError: an unknown sign, or a weight with another number of rows or fewer columns than states.

    Source: Vo et al., "Demystifying the Token Dynamics of Deep Selective State Space Models", 2024, section 5.1.
    """

    signs: Tensor

    def __init__(self, rest: int, states: int, sign: str = "positive") -> None:
        super().__init__()
        if sign not in SIGNS:
            raise ValueError(f"sign={sign!r} is not one of {', '.join(SIGNS)}")
        if rest < 0 or states < 1:
            raise ValueError(f"rest={rest}, states={states}: at least 0 and 1")
        self.rest, self.states = rest, states
        signs = torch.ones(states) if sign != "negative" else -torch.ones(states)
        if sign == "mixed":
            signs[1::2] = -1
        self.register_buffer("signs", signs)

    def forward(
        self, rest: Float[Tensor, "rest channels"], U: Float[Tensor, "states channels"], d: Float[Tensor, " states"]
    ) -> Float[Tensor, "rows channels"]:
        """The weight from its free part, U (of which only what lies above the diagonal counts) and d."""
        U = U.triu(1) + torch.eye(*U.shape, dtype=U.dtype, device=U.device)
        S_B = (self.signs.to(d.dtype) * (F.softplus(d) + _FLOOR))[:, None] * U
        return torch.cat((rest, S_B, U))

    @torch.no_grad()
    def right_inverse(
        self, weight: Float[Tensor, "rows channels"]
    ) -> tuple[Float[Tensor, "rest channels"], Float[Tensor, "states channels"], Float[Tensor, " states"]]:
        """Start from a weight: its S_C above the diagonal, and d = 0."""
        rows, channels = weight.shape
        if rows != self.rest + 2 * self.states or channels < self.states:
            raise ValueError(
                f"a weight of shape {tuple(weight.shape)} is not {self.rest} + 2 · {self.states} rows over at least "
                f"{self.states} channels: U needs as many columns as states"
            )
        rest, _, S_C = weight.split((self.rest, self.states, self.states))
        return rest.clone(), S_C.clone(), weight.new_zeros(self.states)


def make_definite(model: nn.Module, sign: str = "positive") -> int:
    """Parametrize every Mamba layer of a model, in place; returns how many.

    Raises:
        ValueError: no such layer, an unknown sign, or more states than inner channels.
    """
    layers = [m for m in model.modules() if isinstance(m, Mamba)]
    if not layers:
        raise ValueError(f"a {type(model).__name__} without Mamba layers has no S_B and S_C")
    for layer in layers:
        projection = DefiniteProjection(layer.dt_rank, layer.state_size, sign)
        parametrize.register_parametrization(layer.x_proj, "weight", projection, unsafe=True)
    return len(layers)
