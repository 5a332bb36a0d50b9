import pytest
import torch
from torch import nn

from gramian.analysis.cost import flops, parameters
from gramian.linalg.scan import selective_scan
from gramian.models.vision import efficientnet_lite0


def test_a_linear_layer_and_a_convolution_by_formula():
    linear = nn.Linear(10, 4)
    assert parameters(linear) == 44
    assert flops(linear, torch.zeros(3, 10)) == 3 * 10 * 4
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
    assert parameters(conv) == 8 * 3 * 9 + 8
    x = torch.zeros(2, 6, 16, 16)
    assert flops(conv, x) == 2 * 8 * 8 * 8 * 3 * 9
    assert flops(conv, x, convention="flops") == 2 * flops(conv, x)


def test_a_perceptron_by_formula():
    model = nn.Sequential(nn.Linear(7, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3, bias=False))
    assert parameters(model) == 7 * 20 + 20 + 2 * 20 + 20 * 3
    assert flops(model, torch.zeros(5, 7)) == 5 * (7 * 20 + 20 * 3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("real", [False, True])
def test_attention_by_formula(training, real):
    attention = nn.MultiheadAttention(32, 4, batch_first=True).train(training)
    x = torch.zeros(2, 10, 32)
    expected = 2 * (10 * 4 * 32 * 32 + 2 * 10 * 10 * 32)  # four projections, then scores and mixture
    assert flops(attention, x, x, x, real=real) == expected
    assert flops(attention, x, x, x, real=real, need_weights=False) == expected


@pytest.mark.parametrize("real", [False, True])
def test_an_encoder_layer_by_formula(real):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    assert flops(layer, torch.zeros(2, 10, 32), real=real) == 2 * (10 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 10 * 10 * 32)


def test_efficientnet_lite0():
    model = efficientnet_lite0().eval()
    assert parameters(model) == 4_652_008
    x = torch.zeros(1, 3, 224, 224)
    sizes = []

    def note(module, inputs, output):
        inside = module.weight[0].numel()
        sizes.append(inside * output.numel())

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    counted = flops(model, x)
    assert counted == sum(sizes) == 385_187_552
    assert 0.9 < counted / 407e6 < 1  # the published 407 M include norms and activations


class Scan(nn.Module):
    def forward(self, *tensors):
        return selective_scan(*tensors)


@pytest.mark.parametrize("real", [False, True])
def test_a_selective_scan_counts_as_published(real):
    batch, channels, length, state = 2, 6, 10, 4
    u, b = torch.zeros(batch, channels, length), torch.zeros(batch, state, length)
    inputs = (u, torch.ones_like(u), -torch.ones(channels, state), b, b)
    steps = batch * channels * length
    assert flops(Scan(), *inputs, real=real) == 9 * steps * state
    assert flops(Scan(), *inputs, torch.ones(channels), u, real=real) == 9 * steps * state + 2 * steps
    assert flops(Scan(), *inputs, real=real, convention="flops") == 9 * steps * state


def test_the_model_is_left_as_it_is_and_shared_weights_count_once():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert parameters(model) == 64 + 8 + 16 + 8
    assert flops(model, torch.zeros(3, 8)) == 3 * 2 * 64
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model[2].weight is model[0].weight
    model[0].weight.requires_grad_(False)
    assert parameters(model, trainable=True) == 32


def test_a_network_too_large_for_memory_is_counted():
    with torch.device("meta"):
        huge = nn.Sequential(nn.Linear(10**6, 10**6), nn.Linear(10**6, 5))
    assert parameters(huge) == 10**12 + 10**6 + 5 * 10**6 + 5
    assert flops(huge, torch.zeros(2, 10**6)) == 2 * (10**12 + 5 * 10**6)


class Decides(nn.Module):
    def forward(self, x):
        return x @ x.T if x.sum() > 0 else x


def test_a_network_that_reads_values_wants_a_real_pass():
    with pytest.raises(ValueError, match=r"Decides reads values .* real=True"):
        flops(Decides(), torch.ones(3, 4))
    assert flops(Decides(), torch.ones(3, 4), real=True) == 3 * 3 * 4
    assert flops(Decides(), -torch.ones(3, 4), real=True) == 0


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="convention='gmacs'"):
        flops(nn.Linear(2, 2), torch.zeros(1, 2), convention="gmacs")
