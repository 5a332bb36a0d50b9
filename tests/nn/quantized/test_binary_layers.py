import copy

import pytest
import torch
from torch import nn

from gramian.nn.quantized import binary


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(layer):
    layer.seen += 1
    layer.stage = 2
    return layer.eval()


def test_square_wave_has_the_sines_gradient():
    w = normal(50, dtype=torch.float64).requires_grad_()
    sine = torch.sin(20 * w)
    (wanted,) = torch.autograd.grad(sine.sum(), w)
    wave = binary.square_wave(w)
    assert torch.equal(wave, torch.sign(sine.detach()))
    assert torch.allclose(torch.autograd.grad(wave.sum(), w)[0], wanted)
    assert binary.square_wave(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]
    assert binary.binary_sign(torch.zeros(1)).tolist() == [1.0]


def test_stages_differ_in_values_and_not_in_the_gradient_of_weights():
    torch.manual_seed(0)
    layer, x = binary.BiPerLinear(8, 3), normal(5, 8)
    layer(x).sum().backward()
    first, layer.weight.grad = layer.weight.grad, None
    assert ((layer.effective_weight.abs() < 1) & (layer.effective_weight.abs() > 0)).any()
    layer.stage = 2
    assert set(layer.effective_weight.flatten().tolist()) <= {-1.0, 1.0}
    layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, first)


def test_a_stage_one_layer_is_differentiable_where_it_is_smooth():
    layer = binary.BiPerConv2d(2, 3, 3, padding=1).double()
    x = torch.where(normal(2, 2, 4, 4) > 0, 1.0, -1.0).double()

    def f(weight, scale, bias):
        parameters = {"weight": weight, "scale": scale, "bias": bias}
        return torch.func.functional_call(layer.eval(), parameters, x)

    assert torch.autograd.gradcheck(
        f, tuple(p.detach().requires_grad_() for p in (layer.weight, layer.scale, layer.bias))
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inputs", [3, 64, 130])
def test_packed_linear_is_the_layer(inputs, bias):
    layer = trained(binary.BiPerLinear(inputs, 7, bias))
    x = normal(2, 5, inputs)
    with torch.no_grad():
        assert torch.equal(layer.packed()(x), layer(x))
    assert layer.packed().nbytes == 7 * 8 * -(-inputs // 64)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (2, 2, 1)])
def test_packed_convolution_is_the_layer(kernel, stride, padding):
    layer = trained(binary.BiPerConv2d(5, 6, kernel, stride, padding))
    x = normal(2, 5, 7, 9)
    with torch.no_grad():
        assert torch.equal(layer.packed()(x), layer(x))


def test_training_divides_by_each_samples_deviation_for_gradients_only():
    layer, x = binary.BiPerLinear(6, 2), 100 * normal(3, 6)
    small = x.clone().requires_grad_()
    assert torch.equal(layer(small), copy.deepcopy(layer).eval()(x))
    layer(small).sum().backward()
    assert (small.grad != 0).any()
    assert (normal(3, 6) * 100).abs().min() > 1  # undivided, every one of them would be beyond the parabola


def test_stage_two_warns_only_without_stage_one():
    layer = binary.BiPerLinear(4, 2)
    with pytest.warns(binary.UntrainedStage):
        layer.stage = 2
    layer.stage = 1
    layer(normal(3, 4))
    model = nn.Sequential(binary.BiPerLinear(4, 2))
    model[0].load_state_dict(layer.state_dict())
    assert binary.set_stage(model, 2) == 1
    assert model[0].stage == 2
    assert "stage=2" in repr(model)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: binary.BiPerLinear(2, 2, frequency=0), "frequency"),
        (lambda: binary.square_wave(torch.ones(2), -1.0), "frequency"),
        (lambda: binary.BiPerLinear(2, 2, stage=3), "stage"),
        (lambda: binary.set_stage(nn.Linear(2, 2), 2), "no BiPer"),
        (lambda: binary.BiPerLinear(3, 2)(torch.ones(4, 3)), "do not vary"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
