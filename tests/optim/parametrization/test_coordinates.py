import pytest
import torch
from torch import nn

from gramian.optim.parametrization.coordinates import coordinate_check, log_slope, spectral_norm


def test_spectral_norm_of_large_and_small_matrices():
    g = torch.Generator().manual_seed(0)
    for shape in ((3, 200), (150, 90), (80, 80)):
        matrix = torch.randn(*shape, generator=g)
        assert abs(spectral_norm(matrix) / float(torch.linalg.matrix_norm(matrix, 2)) - 1) < 1e-3
    assert spectral_norm(torch.zeros(100, 100)) == 0


def make(power):
    """One linear layer, every entry n^power at the start, and a rate of n^power."""

    def build(width, seed):
        model = nn.Linear(width, width, bias=False)
        nn.init.constant_(model.weight, float(width) ** power)
        return model, torch.optim.SGD(model.parameters(), lr=float(width) ** power)

    return build


def test_slopes_of_a_layer_that_is_known():
    # inputs of ones at each width come from a layer in front
    class Ones(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.new_ones(len(x), self.inner.in_features))

    def build(width, seed):
        inner, tuner = make(-1.0)(width, seed)
        return Ones(inner), tuner

    check = coordinate_check(build, (16, 64, 128), [torch.zeros(4, 1)], lambda m, x: m(x).sum() / len(x), steps=2)
    assert check.slopes("weight") == pytest.approx({"inner.weight": 0.0}, abs=1e-5)
    assert check.slopes("feature") == pytest.approx({"inner.weight": 0.0}, abs=1e-5)
    # the gradient's entries are 1: two steps of 1/n are a matrix of norm 2 and a change of 2
    assert check.update["inner.weight"] == pytest.approx((2.0, 2.0, 2.0), rel=1e-4)
    assert check.change["inner.weight"] == pytest.approx((2.0, 2.0, 2.0), rel=1e-4)
    assert check.rows()[0]["layer"] == "inner.weight"
    with pytest.raises(ValueError, match="quantity"):
        check.slopes("loss")


def test_hooks_are_gone_and_embeddings_are_read():
    made = []

    def build(width, seed):
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential(nn.Embedding(7, width), nn.Linear(width, 3))
        for p in model.parameters():
            nn.init.normal_(p, generator=generator)
        made.append(model)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    check = coordinate_check(
        build, (8, 32), [torch.arange(7)], lambda m, x: m(x).square().mean(), seeds=(0, 1), steps=1
    )
    assert set(check.weight) == {"0.weight", "1.weight"}
    assert all(not m._forward_hooks for model in made for m in model.modules())


def test_errors():
    with pytest.raises(ValueError, match="widths"):
        coordinate_check(make(0.0), (8,), [torch.zeros(2, 8)], lambda m, x: m(x).sum())
    with pytest.raises(ValueError, match="positive"):
        log_slope((1, 2), (0.0, 1.0))
    with pytest.raises(ValueError, match="two"):
        log_slope((1, 1), (1.0, 1.0))
