import pytest
import torch
from torch import nn

from gramian.analysis.outliers import Exceed, outlier_profile


class Stream(nn.Module):
    """Layers that read one stream of 8 features, of which one is large."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            layer(x if i % 2 else x * (torch.arange(8) != 5))
        return self.out(x[..., :3])


def stream():
    x = torch.rand(2, 10, 8, generator=torch.Generator().manual_seed(0))
    x[..., 5] = 20
    x[0, 0, 2] = -9
    return x


def test_counts_are_those_of_the_definition():
    model, x = Stream(), stream()
    profile = outlier_profile(model, [x[:1], x[1:]])
    flat = x.reshape(-1, 8)
    assert torch.equal(profile.share["layers.1"], (flat.abs() >= 6).double().mean(0))
    assert torch.equal(profile.largest["layers.1"], flat.abs().amax(0))
    assert profile.outlier_share("layers.1") == 2 / 8
    assert profile.outlier_share("layers.0") == 1 / 8
    # feature 2 is large in one position of twenty, feature 5 in all but only in half of the layers
    assert profile.emergent().tolist() == [5]
    assert profile.emergent(layer_share=0.6).tolist() == []
    assert profile.emergent(position_share=0.05).tolist() == [2, 5]
    assert profile.emergent(layer_share=0.5).tolist() == [5]


def test_reducers_merge():
    x = stream().reshape(-1, 8)
    whole, parts = Exceed(), [Exceed(), Exceed()]
    whole.update(x)
    parts[0].update(x[:7])
    parts[1].update(x[7:])
    parts[0].merge(parts[1])
    assert torch.equal(whole.share, parts[0].share)
    assert torch.equal(whole.largest, parts[0].largest)
    with pytest.raises(ValueError, match="thresholds"):
        whole.merge(Exceed(3.0))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no linear layer"):
        outlier_profile(Stream(), [stream()], "encoder.*")
    with pytest.raises(ValueError, match="no batch"):
        outlier_profile(Stream(), [])
    with pytest.raises(ValueError, match="threshold"):
        outlier_profile(Stream(), [stream()], threshold=-1)
