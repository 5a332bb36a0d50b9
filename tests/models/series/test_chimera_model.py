import pytest
import torch

from gramian.models.series.chimera import ChimeraClassifier, ChimeraForecaster
from gramian.models.series.training import forecast_errors, train_forecaster


def forecaster(seed=0, **options):
    settings = {"channels": 4, "state_size": 2, "layers": 2} | options
    return ChimeraForecaster(8, 3, generator=torch.Generator().manual_seed(seed), **settings)


def test_the_closed_loop_reads_its_own_forecasts():
    model, x = forecaster(normalize=False), torch.randn(2, 8, 3)
    y = model(x)
    longer = forecaster(normalize=False)
    longer.look_back = 9
    again = longer(torch.cat((x, y[:, :1]), 1))
    assert torch.allclose(again[:, :2], y[:, 1:], atol=1e-5)


def test_scales_come_back_and_forms_agree():
    model, x = forecaster(), torch.randn(2, 8, 3)
    assert torch.allclose(model(3 * x + 5), 3 * model(x) + 5, atol=1e-3)
    other = forecaster(form="antidiagonal")
    assert torch.allclose(other(x), model(x), atol=1e-5)


def test_equal_times_are_the_default():
    model, x = forecaster(), torch.randn(2, 8, 3)
    times = torch.arange(8.0).expand(2, -1)
    assert torch.allclose(model(x, times), model(x))
    assert not torch.allclose(model(x, 2 * times), model(x))
    with pytest.raises(ValueError, match="times must increase"):
        model(x, times.flip(1))


def test_surprise_is_causal_and_finds_a_shock():
    model, x = forecaster(normalize=False), torch.randn(1, 8, 3)
    shocked = x.clone()
    shocked[0, 5, 1] += 50
    a, b = model.surprise(x), model.surprise(shocked)
    assert torch.equal(a[:, :5], b[:, :5])
    assert int(b[0, :, 1].argmax()) in (5, 6)
    assert b[0, 5, 1] > 100


def test_training_lowers_the_error():
    t = torch.arange(60.0)
    series = torch.stack((torch.sin(t / 3), torch.cos(t / 3)), 1)
    past = torch.stack([series[i : i + 8] for i in range(48)])
    future = torch.stack([series[i + 8 : i + 11] for i in range(48)])
    model = forecaster(variates=2)
    before = forecast_errors(model, (past, future)).mse
    train_forecaster(
        model, (past, future), epochs=10, lr=1e-2, batch_size=16, generator=torch.Generator().manual_seed(0)
    )
    assert forecast_errors(model, (past, future)).mse < 0.5 * before


def test_classifier_starts_from_its_generator_and_drops_the_rest():
    x = torch.randn(3, 10, 2)
    sizes = {"channels": 4, "state_size": 2, "layers": 1}
    made = [ChimeraClassifier(2, 3, generator=torch.Generator().manual_seed(s), **sizes).eval() for s in (0, 0, 1)]
    assert torch.equal(made[0](x), made[1](x))
    assert not torch.allclose(made[0](x), made[2](x))
    assert torch.equal(made[0](x), made[0](x[:, 2:]))  # patches of four: two steps are left over


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="horizon=0"):
        ChimeraForecaster(8, 0)
    with pytest.raises(ValueError, match="8, variates"):
        forecaster()(torch.randn(1, 7, 3))
    with pytest.raises(ValueError, match="made for 2"):
        forecaster(variates=2)(torch.randn(1, 8, 3))
    with pytest.raises(ValueError, match="length ≥ 4"):
        ChimeraClassifier(2, 3)(torch.randn(1, 3, 2))
