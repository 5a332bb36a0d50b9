import pytest
import torch

from gramian.nn.cubic import CubicPatchNet


def test_scores_by_loops():
    net = CubicPatchNet(4, filters=3, classes=2, scale=1.0, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(1))
    scores = net(x)
    weight, bias = net.weight.detach(), net.bias.detach()
    for n in range(5):
        for k in range(2):
            total = 0.0
            for j in range(3):
                for p in range(6):
                    row = 3 * k + j
                    total += float(weight[row] @ x[n, p] + bias[row]) ** 3
            assert float(scores[n, k].detach()) == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_the_order_of_patches_does_not_matter_and_gradients_are_right():
    net = CubicPatchNet(3, filters=2, scale=1.0, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(net(x.flip(1)), net(x))
    assert torch.autograd.gradcheck(net, (x,))
    assert float(CubicPatchNet(100, scale=0.1).weight.detach().abs().max()) <= 0.01


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        CubicPatchNet(0)
    with pytest.raises(ValueError, match="scale"):
        CubicPatchNet(3, scale=0.0)
