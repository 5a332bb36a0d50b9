import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gramian.linalg.factor import lowrank
from gramian.nn.low_rank import LowRankLinear


def test_the_merged_layer_is_the_same_function_and_files_come_back(tmp_path):
    dense = nn.Linear(12, 7)
    factors = lowrank.truncated_svd(dense.weight.detach(), 7)
    layer = LowRankLinear.from_factors(factors.left, factors.right, dense.bias)
    x = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(layer(x), dense(x), atol=1e-5)
    assert torch.allclose(layer.merged()(x), layer(x), atol=1e-5)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    again = LowRankLinear(12, 7, 7)
    again.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(again(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_fresh_layers_start_at_the_size_of_a_dense_one():
    layer = LowRankLinear(400, 300, 40, generator=torch.Generator().manual_seed(1))
    assert 0.8 < float(layer.weight.detach().std() * (3 * 400) ** 0.5) < 1.2
    assert sum(p.numel() for p in layer.parameters()) == 40 * 700 + 300
    layer(torch.ones(1, 400)).sum().backward()
    assert layer.up.grad is not None
    assert layer.down.grad is not None


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="rank=5"):
        LowRankLinear(4, 8, 5)
    with pytest.raises(ValueError, match="ranks 2 and 3"):
        LowRankLinear.from_factors(torch.zeros(4, 2), torch.zeros(3, 4))
