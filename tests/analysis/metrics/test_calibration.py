import pytest
import torch

from gramian.analysis.metrics.calibration import ece


def test_known_values():
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], dtype=torch.float64)
    assert ece(scores, torch.tensor([0, 0, 1, 1])) == pytest.approx((0.1 + 0.4) / 2)
    assert ece(scores, torch.tensor([0, 1, 1, 0])) == pytest.approx((0.4 + 0.1) / 2)
    assert ece(torch.eye(3), torch.arange(3)) == 0
    assert ece(torch.eye(3), torch.tensor([1, 2, 0]), bins=1) == 1


def test_refusals():
    with pytest.raises(ValueError, match="softmax"):
        ece(torch.tensor([[2.0, 3.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="bins"):
        ece(torch.eye(2), torch.arange(2), bins=0)
