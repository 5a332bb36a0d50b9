import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.nn.series.revin import ReversibleNorm
from gramian.nn.series.starts import redraw_


@given(st.floats(0.2, 5), st.floats(-10, 10))
def test_what_lies_between_becomes_equivariant(a, b):
    x = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(1)).double()
    norm = ReversibleNorm(2, eps=1e-12).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -0.5]))
        norm.bias.copy_(torch.tensor([0.3, 1.0]))

    def forecast(x):
        flat, scale = norm.normalize(x)
        return norm.restore(flat[:, :4] ** 2 - flat[:, 4:8], scale)

    assert torch.allclose(forecast(a * x + b), a * forecast(x) + b, atol=1e-8)


def test_restore_undoes_normalize_and_a_constant_series_stays_finite():
    norm = ReversibleNorm(3)
    x = torch.randn(2, 7, 3)
    x[..., 1] = 4.0
    flat, scale = norm.normalize(x)
    assert torch.allclose(norm.restore(flat, scale), x, atol=1e-5)
    assert torch.equal(flat[..., 1], torch.zeros(2, 7))


def test_only_what_is_seen_counts():
    x, seen = torch.randn(2, 9, 2), torch.rand(2, 9, 2) > 0.4
    seen[:, 0] = True
    norm = ReversibleNorm()
    flat, scale = norm.normalize(x, seen)
    other, other_scale = norm.normalize(x.where(seen, torch.tensor(99.0)), seen)
    assert torch.equal(flat, other)
    assert torch.equal(scale.std, other_scale.std)
    assert torch.equal(flat[~seen], torch.zeros(int((~seen).sum())))
    picked = x[0, :, 0][seen[0, :, 0]]
    assert torch.allclose(scale.mean[0, 0, 0], picked.mean())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="positive"):
        ReversibleNorm(eps=0.0)
    with pytest.raises(ValueError, match="channels"):
        ReversibleNorm(3).normalize(torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match="masked everywhere"):
        ReversibleNorm().normalize(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2, dtype=torch.bool))


def test_redrawn_weights_come_from_the_generator_alone():
    layers = [torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Conv1d(2, 3, 3)) for _ in range(2)]
    for layer in layers:
        redraw_(layer, torch.Generator().manual_seed(5))
    for a, b in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert float(layers[0][1].weight.detach().abs().max()) <= 6**-0.5
