import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gramian.analysis.activity import activity, dead_rate, drift_statistic, nonzero_share, rectifiers


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 4), nn.ReLU())


def test_counts_are_those_of_a_loop_and_the_model_is_left_as_it_was():
    model = network().train()
    model[0].bias.data[2] = -100
    x = torch.randn(40, 3)
    found = activity(model, x.split(16))
    h = model[0](x).relu()
    assert list(found) == ["1", "4"] == list(rectifiers(model))
    torch.testing.assert_close(found["1"].zero, (h == 0).double().mean(0))
    out = model[3](h).relu()  # dropout is off while counting
    torch.testing.assert_close(found["4"].zero, (out == 0).double().mean(0))
    assert nonzero_share(model, [x]) == [pytest.approx(float((t != 0).double().mean())) for t in (h, out)]
    assert found["1"].static_dead_rate >= 0.2
    pairs = torch.cat([(h == 0).flatten(), (out == 0).flatten()]).double().mean()
    assert dead_rate(model, [x]) == pytest.approx(float(pairs))
    assert dead_rate(model, [x], dynamic=False) <= dead_rate(model, [x])
    assert float(found["1"].histogram(4).sum()) == 5
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_channels_first_counts_each_channel():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
    x = torch.randn(4, 1, 6, 6)
    found = activity(model, [x], channels_first=True)["1"]
    torch.testing.assert_close(found.zero, (model(x) == 0).double().mean((0, 2, 3)))


def test_a_threshold_serves_smooth_activations():
    model = nn.Sequential(nn.Linear(3, 5), nn.SiLU())
    x = torch.randn(50, 3)
    with pytest.raises(ValueError, match="exact zeros"):
        activity(model, [x])
    with pytest.raises(ValueError, match="threshold="):
        activity(model, [x], ["1"])
    found = activity(model, [x], ["1"], threshold=0.1)["1"]
    torch.testing.assert_close(found.zero, (model(x).abs() <= 0.1).double().mean(0))
    with pytest.raises(ValueError, match="empty"):
        activity(network(), [])


def test_drift_is_that_of_a_loop():
    hidden = torch.tensor([0.0, 0.5, 2.0])
    found = drift_statistic(hidden, 4, 300, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(300, 4, 3, generator=generator) / 3**0.5
    label = torch.randint(4, (300,), generator=generator)
    slopes = []
    for v, y in zip(matrix, label):
        h = hidden.clone().requires_grad_()
        slopes.append(torch.autograd.grad(F.cross_entropy(v @ h, y), h)[0])
    slopes = torch.stack(slopes).double()
    wanted = slopes.mean(0) / slopes.std(0, correction=0) * 300**0.5
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    for bad in ({"classes": 1}, {"draws": 1}, {"loss": "hinge"}):
        arguments = {"classes": 4, "draws": 9, "loss": "mse"} | bad
        with pytest.raises(ValueError):
            drift_statistic(hidden, generator=generator, **arguments)
