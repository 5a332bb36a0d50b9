"""Standardization in groups, the recursive gate, the interactions."""

import pytest
import torch
import torch.nn.functional as F

from gramian.nn.hyperzzw import units


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_groups_alternate_between_batch_and_sample():
    layer = units.GroupStandardization(6, 3).double()
    x = 2 * normal(4, 6, 5, 5) + torch.arange(4.0)[:, None, None, None]
    y = layer(x)
    over = {"batch": (0, 2, 3), "sample": (2, 3)}
    for channels, dims in ((slice(0, 2), over["batch"]), (slice(2, 4), over["sample"]), (slice(4, 6), over["batch"])):
        part = x[:, channels]
        variance = part.var(dims, keepdim=True, unbiased=False)
        expected = (part - part.mean(dims, keepdim=True)) / (variance + 1e-5).sqrt()
        torch.testing.assert_close(y[:, channels], expected)
    assert not list(layer.parameters())
    layer.eval()
    torch.testing.assert_close(torch.cat([layer(x[[i]]) for i in range(4)]), layer(x))


def test_recursive_gate_is_its_formula():
    layer = units.RGU(3, 4, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        layer.plane.normal_(generator=torch.Generator().manual_seed(1))
    x = normal(2, 3, 4, 4)

    def mix(part, maps):
        return torch.einsum("oi,bihw->bohw", part.weight[..., 0, 0], maps)

    gated = mix(layer.key, x) * mix(layer.query, mix(layer.value, x))
    torch.testing.assert_close(layer(x), mix(layer.output, F.gelu(units.standardize(gated)) + layer.plane))


def test_interactions_scale_maps_by_scores_between_0_and_1():
    layer = units.HyperInteraction(3, 4, widths=(8, 8), generator=torch.Generator().manual_seed(0)).double()
    y, x = normal(2, 2, 3, 4, 4)
    gate = layer(y, x) / x
    assert bool(((gate > 0) & (gate < 1)).all())
    channels = layer.over_channels
    score = channels.slow()[0][:, None, None] * y.mean((2, 3), keepdim=True) ** 2
    torch.testing.assert_close(channels(y), y * score.sigmoid())
    torch.testing.assert_close(gate, (score * layer.slow() * y.mean(1, keepdim=True) ** 2).sigmoid())


def test_channels_that_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="channels=10 must be a multiple of groups=4"):
        units.GroupStandardization(10, 4)
    with pytest.raises(ValueError, match="groups=1"):
        units.GroupStandardization(10, 1)
