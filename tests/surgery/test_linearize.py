import pytest
import torch
from torch import nn

from gramian.analysis.geometry.linearity_profile import linearity_profile
from gramian.models.language.tiny import TinyTransformer
from gramian.surgery.linearize import AffineBlock, replace_block


def network():
    torch.manual_seed(0)
    return TinyTransformer(8, 3, 2, positions=16, vocabulary=20)


def test_a_block_is_replaced_and_put_back():
    model = network()
    ids = torch.randint(0, 20, (6, 12), generator=torch.Generator().manual_seed(0))
    before = model(ids)
    found = linearity_profile(model, [ids])[1]
    original = model.layers[1]
    with replace_block(model, "layers.1", found.fitted.weight, found.fitted.bias) as handle:
        assert handle.names == ("layers.1",)
        x = torch.randn(2, 5, 8)
        assert torch.allclose(model.layers[1](x, mask=None), found.fitted(x), atol=1e-6)
        assert model(ids).dtype == torch.float32
        assert not torch.equal(model(ids), before)
    assert model.layers[1] is original
    assert torch.equal(model(ids), before)


def test_a_dropped_block_passes_on_what_it_gets():
    model = network()
    with replace_block(model, "layers.2", None, as_tuple=True):
        x = torch.randn(1, 3, 8)
        assert model.layers[2](x)[0] is x


def test_an_affine_block_refuses_what_is_no_map_of_a_stream():
    with pytest.raises(ValueError, match="one width"):
        AffineBlock(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="one width"):
        AffineBlock(torch.zeros(3, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="without a weight"):
        AffineBlock(None, torch.zeros(4))
    with pytest.raises(ValueError, match="NaN"):
        AffineBlock(torch.full((2, 2), float("nan")))
    with pytest.raises(ValueError, match="no layer matches"):
        replace_block(nn.Sequential(nn.Linear(2, 2)), "7", torch.eye(2))
