import pytest
import torch

from gramian.models.series.spacetime import Residuals, SpaceTime


def generator():
    return torch.Generator().manual_seed(0)


def small(**settings):
    return SpaceTime(20, 5, 16, 6, 8, longest=10, generator=generator(), **settings)


def test_the_filters_are_differences_and_moving_average_residuals():
    x = torch.randn(2, 30, 16).double()
    filters = Residuals(16, 10, generator=generator()).double()
    y = filters(x)
    third = torch.diff(x[..., 3], n=3, dim=1)
    assert torch.allclose(y[:, 3:, 3], third, atol=1e-6)
    assert torch.allclose(y[..., 8], x[..., 8], atol=1e-6)  # order 0 again
    constant = filters(torch.ones(1, 30, 16).double())
    assert torch.allclose(constant[:, 10:, [1, 2, 3, 4, 5, 6, 7]], torch.zeros(1, 20, 7).double(), atol=1e-6)
    with pytest.raises(ValueError, match="longest"):
        Residuals(8, 4)


def test_each_channel_is_forecast_by_itself_and_a_level_is_carried_over():
    model = small().eval()
    x = torch.randn(3, 20, 2)
    with torch.no_grad():
        y = model(x)
        assert torch.allclose(model(x[..., 1:]), y[..., 1:], atol=1e-5)
        assert torch.allclose(model(x + 7), y + 7, atol=1e-4)


def test_the_loss_has_three_terms_that_reach_every_parameter():
    model = small(blocks=2, normalize="a", dropout=0.0)
    x, future = torch.randn(4, 20, 2), torch.randn(4, 5, 2)
    loss = model.training_loss(x, future)
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    with torch.no_grad():
        forecast = (model(x) - future).square().mean().sqrt()
    assert float(loss.detach()) > float(forecast)


def test_bad_input_is_refused():
    model = small()
    with pytest.raises(ValueError, match="look_back=20"):
        model(torch.zeros(1, 19, 1))
    with pytest.raises(ValueError, match="NaN"):
        model(torch.full((1, 20, 1), torch.nan))
    with pytest.raises(ValueError, match="at least 1"):
        SpaceTime(0, 5)
