"""Slow-fast blocks, one after another."""

import pytest
import torch

from gramian.models.vision.terminator import Terminator
from gramian.objectives.slow_loss import slow_loss

SMALL = {
    "channels": 1, "factors": (4, 2), "groups": 4, "kernel_sizes": (3, 5, 3, 5), "width": 8, "local_width": 8,
}  # fmt: skip


def network(**settings):
    return Terminator(6, **SMALL | settings, generator=torch.Generator().manual_seed(0))


def images(count=5):
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def test_one_by_one_equals_the_batch_in_evaluation_only():
    net, x = network(dropout=0.0), images()
    assert net(x).shape == (5, 10)
    assert not torch.allclose(net(x)[:2], net(x[:2]), atol=1e-4)
    net.eval()
    torch.testing.assert_close(torch.cat([net(i[None]) for i in x]), net(x), rtol=0, atol=1e-5)


def test_global_kernels_are_those_that_the_blocks_use():
    net = network()
    kernels = net.global_kernels()
    assert [k.shape for k in kernels] == [(1, 6, 6), (4, 6, 6)]
    slow_loss(kernels).backward()
    with_gradient = {n.split(".")[2] for n, p in net.named_parameters() if p.grad is not None}
    assert with_gradient == {"slow"}


def test_one_seed_gives_one_network_and_saved_states_come_back():
    one, same, other = network(), network(), Terminator(6, **SMALL, generator=torch.Generator().manual_seed(9))
    one(images())
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters(), strict=True))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.eval()(images()), other.eval()(images()))


def test_dropout_is_behind_every_block_but_the_first():
    assert [b.dropout.p for b in network(dropout=0.2).blocks] == [0.0, 0.2]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="channels=4 must be a multiple of groups=12"):
        network(groups=12)
    with pytest.raises(ValueError, match=r"factors=\(\)"):
        network(factors=())
    with pytest.raises(ValueError, match=r"maps of \(1, 6, 5\)"):
        network()(images()[..., :5])
