import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from gramian.data.synthetic import var
from gramian.data.windows import windows
from gramian.models.series.dlinear import DLinear
from gramian.models.series.naive import SeasonalNaive
from gramian.models.series.ridge import Ridge
from gramian.models.series.training import HalvingAdam, forecast_errors, train_forecaster


def test_the_naive_forecast_repeats_the_season():
    x = torch.arange(10.0).view(1, 10, 1)
    assert SeasonalNaive(5, 3)(x).flatten().tolist() == [7, 8, 9, 7, 8]
    with pytest.raises(ValueError, match="season"):
        SeasonalNaive(2, 11)(x)
    with pytest.raises(ValueError, match="at least 1"):
        SeasonalNaive(0)


def test_ridge_is_scikit_learns():
    x, y = torch.randn(60, 6, 2), torch.randn(60, 3, 2)
    model = Ridge(6, 3, channels=2, penalty=0.1).solve(x, y)
    peer = SklearnRidge(alpha=0.1 * 60).fit(x.flatten(1).double(), y.flatten(1).double())
    assert np.allclose(model(x).flatten(1), peer.predict(x.flatten(1).double()), atol=1e-5)
    alone = Ridge(6, 3, penalty=0.1).solve(x, y)
    peer = SklearnRidge(alpha=0.1 * 120).fit(x.mT.reshape(-1, 6).double(), y.mT.reshape(-1, 3).double())
    expected = torch.from_numpy(peer.predict(x.mT.reshape(-1, 6).double())).view(60, 2, 3).mT
    assert torch.allclose(alone(x).double(), expected, atol=1e-5)
    with pytest.raises(ValueError, match="expected"):
        model(torch.zeros(1, 6, 3))
    with pytest.raises(ValueError, match="negative"):
        Ridge(2, 2, penalty=-1.0)


def test_ridge_on_all_channels_reaches_the_best_forecast_and_alone_it_cannot():
    process = var.neighbours(4)
    x = torch.from_numpy(process.sample(6000, np.random.default_rng(0))).float()
    train, test = windows(x[:5000], 4, 2), windows(x[5000:], 4, 2)
    best = process.bayes_mse(2)
    assert forecast_errors(Ridge(4, 2, channels=4).solve(*train), test).mse < 1.08 * best
    assert forecast_errors(Ridge(4, 2).solve(*train), test).mse > 1.2 * best


def test_dlinear_learns_a_linear_map_and_refuses_what_it_cannot_read():
    x = torch.sin(torch.arange(400.0) / 3)[:, None]
    train = windows(x, 12, 3)
    model = DLinear(12, 3, 5, generator=torch.Generator().manual_seed(0))
    train_forecaster(model, train, epochs=30, lr=1e-2)
    assert forecast_errors(model, train).mse < 1e-3
    with pytest.raises(ValueError, match="look_back=12"):
        model(torch.zeros(1, 11, 1))
    with pytest.raises(ValueError, match="odd"):
        DLinear(12, 3, 4)


def test_errors_are_over_every_entry_and_leave_the_mode():
    model = SeasonalNaive(2)
    data = (torch.zeros(5, 3, 2), torch.full((5, 2, 2), -2.0))
    model.train()
    assert forecast_errors(model, data, batch_size=2) == (4.0, 2.0)
    assert model.training


def test_the_halving_schedule_moves_by_epochs_and_survives_a_reload():
    def run(reload_at):
        weight = torch.nn.Parameter(torch.zeros(1))
        adam = HalvingAdam([{"params": [weight], "lr": 1.0}], epoch_steps=2)
        moves = []
        for step in range(8):
            if step == reload_at:
                state = adam.state_dict()
                adam = HalvingAdam([{"params": [weight], "lr": 1.0}], epoch_steps=2)
                adam.load_state_dict(state)
            before = float(weight.detach())
            weight.grad = torch.ones(1)
            adam.step()
            moves.append(before - float(weight.detach()))
        return moves

    assert run(None) == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25], abs=1e-5)
    assert run(5) == pytest.approx(run(None))
    with pytest.raises(ValueError, match="epoch_steps"):
        HalvingAdam([torch.nn.Parameter(torch.zeros(1))], 0)
