"""Ten branches, one bottleneck."""

import pytest
import torch

from gramian.nn.hyperzzw.block import SFNEBlock

SMALL = {"width": 8, "local_width": 8, "groups": 4}


def block(**settings):
    return SFNEBlock(2, 4, 6, **SMALL | settings, generator=torch.Generator().manual_seed(0))


def images(seed=1):
    return torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def test_every_branch_reaches_the_output_and_every_parameter_has_a_gradient():
    net, x = block(), images()
    assert len(net.branches(x)) == 10
    y = net(x)
    assert y.shape == (3, 8, 6, 6)
    (y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)).sum().backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None]
    # a bias in front of a standardization changes nothing
    zero = [n for n, p in net.named_parameters() if not n.endswith("bias") and p.grad.abs().max() == 0]
    assert (missing, zero) == ([], [])


def test_features_have_mean_zero_before_the_nonlinearity():
    net, x = block(), images()
    y = net.standardize(net.bottleneck(torch.cat(net.branches(x), 1)))
    assert y.mean((0, 2, 3)).abs().max() < 1e-5


def test_branches_that_share_maps():
    net, x = block(), images()
    out, mixed, weighed, fast, gated, *_ = net.branches(x)
    torch.testing.assert_close(out, (x * net.slow()) @ fast)
    torch.testing.assert_close(gated, out * out.sigmoid())
    assert not torch.allclose(mixed, weighed)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="channels=8 must be a multiple of groups=3"):
        block(groups=3)
    with pytest.raises(ValueError, match="four are needed"):
        block(kernel_sizes=(3, 5))
    with pytest.raises(ValueError, match="no centre"):
        block(kernel_sizes=(3, 4, 5, 7))
    with pytest.raises(ValueError, match="size=1"):
        SFNEBlock(2, 4, 1, **SMALL)
    with pytest.raises(ValueError, match=r"maps of \(2, 6, 5\)"):
        block()(images()[..., :5])
    with pytest.raises(ValueError, match=r"maps of \(1, 6, 6\)"):
        block()(images()[:, :1])
