import pytest
import torch

from gramian.nn.series.normlin import NormLin


def generator():
    return torch.Generator().manual_seed(0)


def test_normlin_in_double_precision_has_right_gradients():
    layer = NormLin(4, 3, generator=generator()).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    weight = layer.weight.detach().clone().requires_grad_()
    names = {"values.weight": layer.values.weight, "values.bias": layer.values.bias, "out.weight": layer.out.weight,
             "out.bias": layer.out.bias}  # fmt: skip
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(layer, {**names, "weight": w}, (x.detach(),)), (weight,)
    )


def test_another_number_of_tokens_is_refused():
    with pytest.raises(ValueError, match="5 tokens"):
        NormLin(4, 3)(torch.zeros(1, 5, 3))
    with pytest.raises(ValueError, match="at least 1"):
        NormLin(0, 3)
