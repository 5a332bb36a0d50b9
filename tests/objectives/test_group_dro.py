import pytest
import torch

from gramian.objectives.group_dro import GroupDRO


def test_weights_and_loss_by_hand():
    loss = GroupDRO(3, 0.5)
    losses, groups = torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0, 0, 2])
    means = torch.tensor([2.0, 0.0, 4.0])
    found = loss(losses, groups)
    weights = torch.exp(0.5 * means) / torch.exp(0.5 * means).sum()
    torch.testing.assert_close(loss.weights, weights)
    torch.testing.assert_close(found, (weights * means).sum())


def test_weights_stay_in_evaluation_and_tend_to_the_worst_group_in_training():
    loss = GroupDRO(2, 0.1).eval()
    losses, groups = torch.tensor([1.0, 2.0]), torch.tensor([0, 1])
    assert float(loss(losses, groups)) == 1.5
    assert loss.weights.tolist() == [0.5, 0.5]
    loss.train()
    for _ in range(200):
        value = loss(losses, groups)
    assert float(value) == pytest.approx(2.0, abs=1e-6)


def test_the_gradient_is_the_weight_over_the_group_s_size():
    loss = GroupDRO(2, 0.3)
    losses = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    loss(losses, torch.tensor([0, 1, 1])).backward()
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad, (loss.weights[[0, 1, 1]] / torch.tensor([1, 2, 2])).double())


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="groups"):
        GroupDRO(0)
    with pytest.raises(ValueError, match="rate"):
        GroupDRO(2, 0.0)
    with pytest.raises(ValueError, match="do not fit"):
        GroupDRO(2)(torch.zeros(1), torch.tensor([2]))
