"""Channel groups of networks that are written in different ways."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gramian.nn.fold import fold_batch_norm
from gramian.surgery.prune.channels import channel_groups


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.wide = nn.Conv2d(6, 10, 1)
        self.filter = nn.Conv2d(10, 10, 3, padding=1, groups=10, bias=False)
        self.back = nn.Conv2d(10, 6, 1)
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = x + self.back(torch.tanh(self.filter(self.wide(x).relu())))
        x = F.adaptive_avg_pool2d(x, 2)
        return self.head(torch.flatten(x, 1))


def test_a_sum_joins_and_a_depthwise_filter_belongs_to_its_channels():
    stem, wide = channel_groups(Residual())
    assert (stem.name, stem.size) == ("stem", 6)
    assert {(m.name, m.axis, m.role, m.repeat) for m in stem.members} == {
        ("stem.weight", 0, "writes", 1), ("stem.bias", 0, "writes", 1), ("wide.weight", 1, "reads", 1),
        ("back.weight", 0, "writes", 1), ("back.bias", 0, "writes", 1), ("head.weight", 1, "reads", 4),
    }  # fmt: skip
    assert (wide.name, wide.size) == ("wide", 10)
    assert ("filter.weight", 0, "writes", 1) in {(m.name, m.axis, m.role, m.repeat) for m in wide.members}


def test_inputs_and_outputs_are_no_groups():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.GELU(), nn.Linear(7, 10))
    assert [g.name for g in channel_groups(net)] == ["1"]
    assert channel_groups(nn.Linear(3, 4)) == []


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand, self.bn0 = nn.Conv2d(8, 48, 1, bias=False), nn.BatchNorm2d(48)
        self.filter, self.bn1 = nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False), nn.BatchNorm2d(48)
        self.project, self.bn2 = nn.Conv2d(48, 8, 1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        y = F.relu6(self.bn0(self.expand(x)))
        return x + self.bn2(self.project(F.relu6(self.bn1(self.filter(y)))))


def test_a_bottleneck_once_its_normalizations_are_folded():
    block = Bottleneck().eval()
    (hidden,) = channel_groups(fold_batch_norm(block, torch.randn(1, 8, 6, 6)))  # the outer ones are inputs and outputs
    assert (hidden.name, hidden.size) == ("expand", 48)
    assert {m.name for m in hidden.members} == {"expand.weight", "expand.bias", "filter.weight", "filter.bias",
                                                "project.weight"}  # fmt: skip
    with pytest.raises(ValueError, match="fold normalizations"):
        channel_groups(block)


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(self.layer(x))


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_followed_is_named():
    with pytest.raises(ValueError, match="called twice"):
        channel_groups(Twice(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match="cannot be traced"):
        channel_groups(Branch())
    with pytest.raises(ValueError, match="2 groups"):
        channel_groups(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2)))
    with pytest.raises(ValueError, match="Softmax"):
        channel_groups(nn.Sequential(nn.Linear(2, 4), nn.Softmax(1), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="mixes channels"):
        channel_groups(nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (2, 2)), nn.Linear(2, 2)))
