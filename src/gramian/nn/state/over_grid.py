r"""A sequence layer over a grid: read along several scan orders, the answers put back in place and added."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.signal.routes import inverse
from gramian.linalg.signal.scan_orders import scan_order

__all__ = ["OverGrid"]


class OverGrid(nn.Module):
    r"""y = Σ_r P_rᵀ f_r(P_r x): P_r reads the cells along sequence r of a scan order, f_r is a layer of sequences.

    Args:
        layers: f_r with ``layer(x) -> (y, state)``; one for each sequence, or one for all (weights tied).
        order: a name of `gramian.linalg.signal.scan_orders`.

    Raises:
        ValueError: a number of layers that is neither one nor that of the sequences (when called: they depend on the
            order alone, but `hilbert` also on the grid).

    Source: the two-dimensional selective scan (SS2D) of VMamba and its kin.

    >>> from gramian.nn.state.mamba import Mamba
    >>> OverGrid([Mamba(4)], "cross")(torch.randn(2, 3, 5, 4)).shape
    torch.Size([2, 3, 5, 4])
    """

    def __init__(self, layers: Sequence[nn.Module], order: str = "cross") -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.order = order
        scan_order(order, 2, 2)  # names the orders if there is none of this name

    def forward(self, x: Float[Tensor, "batch height width channels"]) -> Float[Tensor, "batch height width channels"]:
        """The sum over the sequences."""
        orders = scan_order(self.order, *x.shape[1:3]).to(x.device)
        if len(self.layers) not in (1, len(orders)):
            raise ValueError(
                f"{len(self.layers)} layers for {len(orders)} sequences of {self.order!r}: one, or as many"
            )
        cells, total = x.flatten(1, 2), torch.zeros((), dtype=x.dtype, device=x.device)
        for number, order in enumerate(orders):
            y, _ = self.layers[number % len(self.layers)](cells[:, order])
            total = total + y[:, inverse(order)]
        return total.unflatten(1, x.shape[1:3])
