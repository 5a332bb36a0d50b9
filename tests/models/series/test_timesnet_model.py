import pytest
import torch

from gramian.models.series.timesnet import TimesNet
from gramian.nn.series.inception import Inception


def generator():
    return torch.Generator().manual_seed(0)


def small(task, horizon=0, **settings):
    return TimesNet(task, 20, 3, horizon, 8, 8, 1, 2, 3, generator=generator(), **settings).eval()


def test_the_published_size_has_the_published_number_of_parameters():
    model = TimesNet("forecast", 96, 7, 96, 16, 32, 2, 5, 6, calendar=4)
    assert sum(p.numel() for p in model.parameters()) == 605_479


@pytest.mark.parametrize(
    ("task", "horizon", "shape"),
    [("forecast", 5, (2, 5, 3)), ("impute", 0, (2, 20, 3)), ("reconstruct", 0, (2, 20, 3)), ("classify", 4, (2, 4))],
)
def test_every_task_has_its_shape_and_trains_every_parameter(task, horizon, shape):
    model = small(task, horizon)
    y = model(torch.randn(2, 20, 3))
    assert y.shape == shape
    y.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_forecasts_carry_scale_and_level():
    model = small("forecast", 5)
    x = torch.randn(2, 20, 3)
    with torch.no_grad():
        assert torch.allclose(model(3 * x + 5), 3 * model(x) + 5, atol=1e-3)


def test_what_is_hidden_is_not_read():
    model = small("impute")
    x, seen = torch.randn(2, 20, 3), torch.rand(2, 20, 3) > 0.3
    with torch.no_grad():
        assert torch.equal(model(x, seen=seen), model(x.where(seen, torch.tensor(99.0)), seen=seen))


def test_padding_does_not_count_towards_a_class():
    model = small("classify", 4)
    seen = torch.ones(2, 20, 3, dtype=torch.bool)
    with torch.no_grad():
        model.head.weight.view(4, 20, 8)[:, 15:] *= 1000
        all_seen, cut = model(torch.randn(2, 20, 3), seen=seen), seen.clone()
        cut[:, 15:] = False
        assert float(model(torch.randn(2, 20, 3), seen=cut).abs().max()) < 0.1 * float(all_seen.abs().max())


def test_the_calendar_is_read():
    model = small("forecast", 5, calendar=2)
    x, marks = torch.randn(2, 20, 3), torch.randn(2, 20, 2)
    with torch.no_grad():
        assert not torch.allclose(model(x, marks), model(x))


def test_inception_averages_also_in_narrow_planes():
    layer = Inception(2, 3, 4, generator=generator()).double()
    for shape in ((9, 9), (1, 9), (2, 3)):
        x = torch.randn(1, 2, *shape, dtype=torch.float64)
        each = [torch.nn.functional.conv2d(x, w, padding=w.shape[-1] // 2) for w in layer.weights]
        assert torch.allclose(layer(x), torch.stack(each).mean(0))
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="unknown"):
        small("cluster")
    with pytest.raises(ValueError, match="horizon=0"):
        small("forecast")
    with pytest.raises(ValueError, match="half of the 20"):
        TimesNet("impute", 20, 1, periods=11)
    with pytest.raises(ValueError, match="expected"):
        small("impute")(torch.zeros(1, 19, 3))
    with pytest.raises(ValueError, match="masked everywhere"):
        small("impute")(torch.randn(1, 20, 3), seen=torch.zeros(1, 20, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 1"):
        Inception(1, 0)
