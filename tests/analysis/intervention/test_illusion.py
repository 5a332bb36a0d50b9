import pytest
import torch
from torch import nn

from gramian.analysis.intervention.illusion import das, illusion_report, split_direction


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_direction_splits_into_unread_and_read():
    v, downstream = normal(9), normal(4, 9, seed=1)
    null, row = split_direction(v, downstream)
    assert torch.allclose(null + row, v, atol=1e-6)
    assert float((downstream @ null).abs().max()) < 1e-5
    assert float(null @ row) == pytest.approx(0, abs=1e-5)
    assert torch.allclose(downstream @ row, downstream @ v, atol=1e-5)
    flat = torch.cat((downstream, downstream[:1]))  # a repeated row reads nothing new
    assert torch.allclose(split_direction(v, flat)[1], row, atol=1e-5)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))


def test_a_search_moves_the_outcome_and_leaves_the_network_as_it_was():
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    base, source = normal(2, 100, 4, seed=2)
    with torch.no_grad():
        wanted = net(source)[:, 0]
    v = das(
        net, "1", base, source, lambda y: (y[:, 0] - wanted).square().mean(), width=10, steps=120,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert torch.allclose(v.T @ v, torch.eye(1), atol=1e-5)
    report = illusion_report(net, "1", v[:, 0], net[2].weight, base, source, lambda y: y[:, 0])
    assert report.effect > 0.9
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_a_dormant_direction_is_found_out():
    read = nn.Linear(2, 4, bias=False)
    write = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        read.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]]))
        write.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 2]]))
    net = nn.Sequential(read, write)
    base = normal(20, 2, seed=3)
    source = base + torch.tensor([1.0, 0.0])
    null = torch.tensor([0.0, 0, 1, 0])
    dormant = torch.tensor([0.0, 0, 0, 1])
    report = illusion_report(net, "0", null + dormant, write.weight.detach(), base, source, lambda y: y[:, 0] + y[:, 2])
    assert report.effect == pytest.approx(1.0, abs=1e-5)
    assert report.null_effect == pytest.approx(0.0, abs=1e-5)
    assert report.row_effect < 0.5
    assert report.illusory
    honest = illusion_report(
        net, "0", torch.tensor([1.0, 0, 1, 0]), write.weight.detach(), base, source, lambda y: y[:, 0] + y[:, 2]
    )
    assert not honest.illusory


def test_what_the_report_and_the_search_refuse():
    net, x = network(), normal(5, 4)
    with pytest.raises(ValueError, match="same outcome"):
        illusion_report(net, "1", normal(10), net[2].weight.detach(), x, x, lambda y: y[:, 0])
    with pytest.raises(ValueError, match="length zero"):
        split_direction(torch.zeros(10), net[2].weight.detach())
    with pytest.raises(ValueError, match="does not fit"):
        split_direction(torch.ones(7), net[2].weight.detach())
    with pytest.raises(ValueError, match="rank=11"):
        das(net, "1", x, x, lambda y: y.sum(), width=10, rank=11)
