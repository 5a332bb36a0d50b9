import pytest
import torch

from gramian.models.series.naive import SeasonalNaive
from gramian.models.series.olinear import OLinear, OrthoTransform, bases
from gramian.objectives.forecasting import fading_l1


def generator():
    return torch.Generator().manual_seed(0)


def test_the_model_is_its_formula():
    series = torch.randn(100, 3, generator=generator()).cumsum(0)
    Q_in, Q_out = bases(series, 8, 4)
    model = OLinear(Q_in, Q_out, 3, 16, 2, 1, generator=generator()).eval()
    with torch.no_grad():
        model.delta_past.normal_(generator=generator())
        model.delta_future.normal_(generator=generator())
        x = series[:16].view(2, 8, 3)
        flat, scale = model.scaling.normalize(x)
        # the order of the paper: embed, transform each embedded series
        embedded = torch.einsum("blv,d->bvdl", flat, model.embedding)
        steps = torch.einsum("bvdl,lk->bvdk", embedded, Q_in) + model.delta_past
        tokens = model.norm(model.mixings(model.encode(steps.reshape(2, 3, 16))))
        back = torch.einsum("bvdk,hk->bvhd", model.decode(tokens).view(2, 3, 2, 4), Q_out)
        back = back + model.delta_future.transpose(-1, -2)
        y = model.read(back.reshape(2, 3, 8))
        assert torch.allclose(model(x), model.scaling.restore(y.mT, scale), atol=1e-5)


def test_gradients_reach_everything_but_the_bases():
    model = OLinear(torch.eye(8), torch.eye(4), 3, 16, 2, 1, generator=generator())
    model.training_loss(torch.randn(5, 8, 3), torch.randn(5, 4, 3)).backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in model.parameters())
    assert {"past_basis", "future_basis"} <= set(model.state_dict())


def test_the_wrapper_undoes_its_bases():
    series = torch.randn(100, 2, generator=generator()).cumsum(0)
    Q, _ = bases(series, 6, 6)
    x = series[:12].view(2, 6, 2)
    y = OrthoTransform(SeasonalNaive(6, 6), Q, Q)(x)  # coefficients pass unchanged
    assert torch.allclose(y, x, atol=1e-4)


def test_the_loss_weighs_steps_by_their_root():
    gap = torch.tensor([[[1.0], [1.0], [0.0], [1.0]]])
    assert float(fading_l1(gap, torch.zeros(1, 4, 1))) == pytest.approx((1 + 2**-0.5 + 0.5) / 4)


def test_bad_input_is_refused():
    model = OLinear(torch.eye(8), torch.eye(4), 3, 16, 2, 1)
    with pytest.raises(ValueError, match="expected"):
        model(torch.zeros(1, 8, 4))
    with pytest.raises(ValueError, match="NaN"):
        model(torch.full((1, 8, 3), torch.nan))
    with pytest.raises(ValueError, match="orthogonal"):
        OLinear(torch.ones(8, 8), torch.eye(4), 3)
    with pytest.raises(ValueError, match="at least 1"):
        OLinear(torch.eye(8), torch.eye(4), 0)
