import pytest
import torch
import torch.nn.functional as F

from gramian.analysis.cost import parameters
from gramian.models.vision.deit import DeiT


def test_deit_ti_has_its_parameters():
    with torch.device("meta"):
        assert parameters(DeiT()) == 5_717_416


def test_attention_is_torch_s():
    model = DeiT(8, 4, channels=1, classes=3, width=12, depth=1, heads=3, neurons=8).double()
    attention = model.blocks[0].attention
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    parts = attention.query_key_value(x).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(2, 5, 12)
    assert torch.allclose(attention(x), attention.output(mixed))


@pytest.mark.parametrize("settings", [{"size": 9}, {"heads": 5}])
def test_sizes_that_do_not_fit(settings):
    with pytest.raises(ValueError, match=r"tile|multiple"):
        DeiT(**{"size": 8, "patch": 4, "width": 12, **settings})
