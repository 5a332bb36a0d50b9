import math

import pytest
import torch

from gramian.nn.attention import rf_attention


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("constant", [False, True])
def test_the_layer_is_its_formula(constant):
    layer = rf_attention.RandomFeatureAttention(3, 4, mean=0.7, constant=constant, outputs=2, generator=seeded())
    with torch.no_grad():
        layer.value.normal_(generator=seeded(1))
    x = torch.randn(2, 6, 3, generator=seeded(2))
    tokens = torch.cat((x, torch.ones(2, 6, 1)), 2) if constant else x
    value = layer.value.reshape(4, -1, 2)
    expected = torch.zeros(2, 2)
    for sample in range(2):
        for m in range(4):
            for i in range(1, 6):
                weight = (tokens[sample, 0] @ layer.query_key[m] @ tokens[sample, i]).relu() / 5
                expected[sample] += weight * tokens[sample, i] @ value[m] / math.sqrt(4)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_the_mean_is_on_the_diagonal_of_the_features():
    plain, shifted = (rf_attention.RandomFeatureAttention(3, 5, mean=m, generator=seeded()) for m in (0, 2))
    expected = torch.diag(torch.tensor([2.0, 2, 2, 0]))
    torch.testing.assert_close(shifted.query_key - plain.query_key, expected.expand(5, 4, 4), atol=1e-6, rtol=1e-5)


def test_keys_may_come_in_any_order():
    layer = rf_attention.RandomFeatureAttention(3, 8, generator=seeded()).double()
    with torch.no_grad():
        layer.value.normal_(generator=seeded(1))
    x = torch.randn(4, 5, 3, generator=seeded(2), dtype=torch.float64)
    torch.testing.assert_close(layer(x[:, [0, 3, 1, 4, 2]]), layer(x), rtol=1e-12, atol=1e-12)


def test_gradients_reach_tokens_and_values_only():
    layer = rf_attention.RandomFeatureAttention(2, 3, generator=seeded()).double()
    assert [n for n, _ in layer.named_parameters()] == ["value"]
    x = torch.randn(2, 3, 2, generator=seeded(3), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer.feature_map, (x,))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        rf_attention.RandomFeatureAttention(3, 0)
    with pytest.raises(ValueError, match="finite"):
        rf_attention.RandomFeatureAttention(3, 2, mean=math.inf)
    layer = rf_attention.RandomFeatureAttention(3, 2, generator=seeded())
    with pytest.raises(ValueError, match="features=3"):
        layer(torch.ones(1, 4, 2))
    with pytest.raises(ValueError, match="at least one key"):
        layer(torch.ones(1, 1, 3))
