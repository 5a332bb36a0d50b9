"""Merging against brute force, on duplicates, and on what it must refuse."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from gramian.surgery import merge_features
from gramian.surgery.prune.channels import channel_groups


def mlp(*widths):
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def duplicated(net, layer, reader, channel, share):
    """The network with one more channel that is written like `channel` and takes a share of its reader's weights."""
    first, second = net[layer], net[reader]
    with torch.no_grad():
        first.weight = nn.Parameter(torch.cat((first.weight, first.weight[channel : channel + 1])))
        first.bias = nn.Parameter(torch.cat((first.bias, first.bias[channel : channel + 1])))
        column = second.weight[:, channel].clone()
        second.weight = nn.Parameter(torch.cat((second.weight, share * column[:, None]), 1))
        second.weight[:, channel] = (1 - share) * column
    return net


def brute_force(net, beta, groups):
    """The merges by recomputing everything each time; weights as a dictionary of float64 arrays."""
    tensors = {n: p.detach().double() for n, p in net.named_parameters()}
    counts = {g.name: [1] * g.size for g in groups}
    names = {g.name: list(range(g.size)) for g in groups}
    order = []
    while True:
        moved = False
        for group in groups:
            n = len(names[group.name])
            if n < 2:
                continue
            vectors = torch.cat([
                tensors[m.name].unflatten(m.axis, (n, -1)).movedim(m.axis, 0).flatten(1) for m in group.members
            ], 1)  # fmt: skip
            best, far = (float("inf"), 0, 0), 0.0
            for i in range(n):
                for j in range(i + 1, n):
                    d = float((vectors[i] - vectors[j]).square().sum())
                    best, far = min(best, (d, i, j)), max(far, d)
            if best[0] > beta * far:
                continue
            _, i, j = best
            a, b = counts[group.name][i], counts[group.name].pop(j)
            counts[group.name][i] = a + b
            order.append((group.name, names[group.name][i], names[group.name].pop(j)))
            for m in group.members:
                t = tensors[m.name].unflatten(m.axis, (n, -1)).movedim(m.axis, 0).clone()
                t[i] = (a * t[i] + b * t[j]) / (a + b) if m.role == "writes" else t[i] + t[j]
                t = torch.cat((t[:j], t[j + 1 :])).movedim(0, m.axis)
                tensors[m.name] = t.flatten(m.axis, m.axis + 1)
            moved = True
        if not moved:
            return tensors, order


@pytest.mark.parametrize("convolutions", [False, True])
def test_pairs_and_weights_are_those_of_brute_force(convolutions):
    torch.manual_seed(3)
    net = mlp(5, 12, 9, 3)
    if convolutions:
        net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 6, 1),
                            nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))  # fmt: skip
    groups = channel_groups(net)
    beta = 0.8 if convolutions else 0.5
    wanted, order = brute_force(net, beta, groups)
    found, report = merge_features.iterative_merge(net, beta, groups=groups)
    assert report.order == order
    assert len(order) >= 6
    for name, tensor in found.named_parameters():
        assert torch.allclose(tensor.double(), wanted[name].view(tensor.shape), atol=1e-6), name
    assert report.parameters == (sum(p.numel() for p in net.parameters()), sum(p.numel() for p in found.parameters()))


@pytest.mark.parametrize("share", [0.5, 0.4])
def test_duplicates_merge_back_and_the_answer_stays(share):
    net = mlp(6, 10, 8, 3)
    wide = duplicated(duplicated(net, 0, 2, 3, share), 2, 4, 5, share)
    x = torch.randn(20, 6)
    answers = wide(x)
    kept, report = merge_features.iterative_merge(wide, 0.05)
    assert report.before == {"0": 11, "2": 9}
    assert report.after == {"0": 10, "2": 8}
    assert [3, 10] in report.clusters["0"]
    assert [5, 8] in report.clusters["2"]
    assert torch.allclose(kept(x), answers, atol=1e-5)
    assert kept[0].out_features == kept[2].in_features == 10
    assert wide[0].weight.shape == (11, 6)


def test_the_largest_share_and_zero_beta():
    net = mlp(4, 20, 2)
    assert merge_features.iterative_merge(net, 0.0)[1].after == {"0": 20}
    assert merge_features.iterative_merge(net, 0.99, max_ratio=0.25)[1].after == {"0": 15}
    same = duplicated(mlp(4, 6, 2), 0, 2, 1, 0.5)
    assert merge_features.iterative_merge(same, 0.0)[1].after == {"0": 6}


def test_distances_and_complexity():
    net = mlp(4, 7, 2)
    (group,) = channel_groups(net)
    vectors = torch.cat((net[0].weight, net[0].bias[:, None], net[2].weight.T), 1).detach().double()
    wanted = (vectors[:, None] - vectors).square().sum(-1)
    assert torch.allclose(merge_features.channel_distances(net, group), wanted)
    found = merge_features.feature_complexity(net, (0.0, 0.3, 0.9))
    assert [found[b]["0"] for b in (0.0, 0.3, 0.9)] == sorted((f["0"] for f in found.values()), reverse=True)


def test_what_does_not_fit_is_refused():
    for beta in (-0.1, 1.0):
        with pytest.raises(ValueError, match="beta="):
            merge_features.iterative_merge(mlp(2, 3, 2), beta)
    with pytest.raises(ValueError, match="max_ratio=2"):
        merge_features.iterative_merge(mlp(2, 3, 2), 0.1, 2.0)
    with pytest.raises(ValueError, match="no group"):
        merge_features.iterative_merge(nn.Linear(3, 4), 0.1)
    with pytest.raises(ValueError, match="fold normalizations"):
        merge_features.iterative_merge(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), 0.1)
