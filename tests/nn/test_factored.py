import pytest
import torch

from gramian.nn.factored import GatedSVDLinear


def layer():
    return GatedSVDLinear(5, 4, 3, 2, 3, generator=torch.Generator().manual_seed(0)).double()


def test_all_on_is_the_dense_product_and_a_gate_is_a_loop():
    one, g = layer(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        one.scale.copy_(torch.rand(9, generator=g) + 0.5)
    x = torch.randn(4, 7, 5, generator=g, dtype=torch.float64)
    dense = torch.nn.functional.linear(x, one.up @ torch.diag(one.scale) @ one.down, one.bias)
    torch.testing.assert_close(one(x, torch.ones(4, 9, dtype=torch.float64)), dense)
    gate = one.gate(torch.tensor([2, 0, -1, 1]))
    for i, label in enumerate([2, 0, -1, 1]):
        on = [0, 1, 2] + ([] if label < 0 else [3 + 2 * label, 4 + 2 * label])
        want = one.bias + sum((x[i] @ one.down[j])[:, None] * one.scale[j] * one.up[:, j] for j in on)
        torch.testing.assert_close(one(x, gate)[i], want)


def test_gradients_reach_only_a_samples_own_components_and_are_right():
    one = layer()
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one(x, one.gate(torch.tensor([1, 1]))).square().sum().backward()
    others = [3, 4, 7, 8]
    assert one.up.grad[:, others].eq(0).all()
    assert one.down.grad[others].eq(0).all()
    assert one.scale.grad[others].eq(0).all()
    assert one.up.grad[:, 5:7].ne(0).all()
    x.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: one(v, one.gate(torch.tensor([1, 0]))), x)


def test_the_start_has_a_dense_layers_variance():
    wide = GatedSVDLinear(300, 200, 24, 8, 1, generator=torch.Generator().manual_seed(0))
    assert 0.8 < float(wide.weight.detach().var() * 3 * 300) < 1.2


def test_without_a_generator_layers_differ_and_need_no_storage():
    one, two = (GatedSVDLinear(6, 5, 2, 1, 2) for _ in range(2))
    assert not torch.equal(one.up, two.up)
    with torch.device("meta"):
        assert GatedSVDLinear(6, 5, 2, 1, 2).weight.shape == (5, 6)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="common=0"):
        GatedSVDLinear(5, 4, 0, 2, 3)
    with pytest.raises(ValueError, match="negative"):
        GatedSVDLinear(5, 4, 1, -1, 3)
    with pytest.raises(ValueError, match="tailors"):
        layer().gate(torch.tensor([3]))
    with pytest.raises(ValueError, match="whole numbers"):
        layer().gate(torch.tensor([0.5]))
    with pytest.raises(ValueError, match="8 entries"):
        layer()(torch.zeros(2, 5, dtype=torch.float64), torch.ones(2, 8, dtype=torch.float64))
