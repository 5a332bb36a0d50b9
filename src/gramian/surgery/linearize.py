"""Put an affine map, or nothing, in a residual block's place."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.surgery.swap import Handle, swap

__all__ = ["AffineBlock", "replace_block"]


class AffineBlock(nn.Module):
    r"""\(x \mapsto x W + b\) at every position, whatever else the block it stands for was given (masks, caches).

    Args:
        weight: (features, features); None passes `x` on unchanged, which drops the block.
        bias: (features,); zero without it.
        as_tuple: return ``(y,)``, where the network expects a tuple of its blocks.

    Raises:
        ValueError: a weight that is not square, or a bias of another width, NaN, or a bias without a weight.
    """

    def __init__(
        self,
        weight: Float[Tensor, "rows columns"] | None,
        bias: Float[Tensor, " width"] | None = None,
        *,
        as_tuple: bool = False,
    ) -> None:
        super().__init__()
        self.as_tuple = as_tuple
        self.linear: nn.Linear | None = None
        if weight is None:
            if bias is not None:
                raise ValueError("a bias without a weight: give both, or neither to drop the block")
            return
        rows, columns = weight.shape
        if rows != columns or (bias is not None and len(bias) != rows):
            raise ValueError(
                f"weight {tuple(weight.shape)} and bias {None if bias is None else tuple(bias.shape)}: a block maps a "
                "stream of one width to itself"
            )
        if not bool(torch.isfinite(weight).all()) or (bias is not None and not bool(torch.isfinite(bias).all())):
            raise ValueError("the map holds NaN or infinite numbers")
        self.linear = nn.Linear(rows, rows, bias=True, dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            self.linear.weight.copy_(weight.T)
            self.linear.bias.copy_(torch.zeros_like(self.linear.bias) if bias is None else bias)

    def forward(self, x: Float[Tensor, "*samples width"], *arguments: Any, **named: Any) -> Any:
        y = x if self.linear is None else self.linear(x)
        return (y,) if self.as_tuple else y


def replace_block(
    model: nn.Module,
    name: str,
    weight: Float[Tensor, "rows columns"] | None,
    bias: Float[Tensor, " width"] | None = None,
    *,
    as_tuple: bool = False,
) -> Handle:
    """Replace the block `name` by an affine map of its input, in place; without a weight the block is dropped.

    The map is cast to the type and device of the block's parameters. The least-squares map of
    `gramian.analysis.geometry.linearity` is what training the block's stand-in on its outputs tends to.

    Returns:
        a handle; its ``undo()``, or leaving it as a context manager, puts the block back.

    Raises:
        ValueError: no block of that name, or what `AffineBlock` raises.

    Source: Razzhigaev et al., Your Transformer is Secretly Linear (2024), section 5.

    >>> model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    >>> with replace_block(model, "1", torch.eye(3)):
    ...     type(model[1]).__name__
    'AffineBlock'
    """

    def factory(_: str, block: nn.Module) -> nn.Module:
        made = AffineBlock(weight, bias, as_tuple=as_tuple)
        like = next(block.parameters(), None)
        return made if like is None else made.to(like)

    return swap(model, name, factory)
