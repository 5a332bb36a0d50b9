import pytest
import torch
from torch import nn

from gramian.linalg.signal.scan_orders import scan_order
from gramian.nn.state.mamba import Mamba
from gramian.nn.state.over_grid import OverGrid


class Sum(nn.Module):
    """The sum so far, times a weight."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight

    def forward(self, x, state=None):
        return self.weight * x.cumsum(1), None


def test_the_answers_come_back_to_their_cells():
    x = torch.arange(6.0).view(1, 2, 3, 1)
    for name in ("raster", "cross", "zigzag"):
        total = torch.zeros(6)
        for order in scan_order(name, 2, 3).tolist():
            for place, cell in enumerate(order):
                total[cell] += sum(float(c) for c in order[: place + 1])
        torch.testing.assert_close(OverGrid([Sum()], name)(x).flatten(), total)


def test_one_layer_a_sequence_or_one_for_all():
    x = torch.randn(2, 4, 4, 3)
    tied = OverGrid([Sum(2.0)], "cross")(x)
    torch.testing.assert_close(OverGrid([Sum(2.0) for _ in range(4)], "cross")(x), tied)
    first = OverGrid([Sum(2.0), Sum(0.0), Sum(0.0), Sum(0.0)], "cross")(x)
    torch.testing.assert_close(first, OverGrid([Sum(2.0)], "raster")(x))
    with pytest.raises(ValueError, match="3 layers for 4 sequences"):
        OverGrid([Sum() for _ in range(3)], "cross")(x)
    with pytest.raises(ValueError, match="'spiral' is not known"):
        OverGrid([Sum()], "spiral")


def test_gradients_reach_every_cell_and_parameter():
    block = OverGrid([Mamba(4, 2, generator=torch.Generator().manual_seed(0)) for _ in range(2)], "bidirectional")
    x = torch.randn(1, 3, 3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    block(x)[0, 1, 1].sum().backward()
    assert (x.grad.abs().sum(-1) > 0).all()
    assert all(p.grad is not None for p in block.parameters())
