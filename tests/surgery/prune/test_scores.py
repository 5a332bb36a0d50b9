import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gramian.surgery.prune import iterative, scores


@pytest.fixture
def model():
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model


def data():
    g = torch.Generator().manual_seed(1)
    return torch.randn(9, 4, generator=g, dtype=torch.float64), torch.randint(3, (9,), generator=g)


def test_lamp_is_its_formula_and_empties_no_matrix(model):
    for name, score in scores.lamp(model).items():
        w = model.get_parameter(name).detach().flatten().tolist()
        want = [u * u / sum(v * v for v in w if abs(v) >= abs(u)) for u in w]
        torch.testing.assert_close(score.flatten(), torch.tensor(want, dtype=torch.float64))
        assert score.max() == 1
    model[2].weight.data *= 1e-6
    kept = iterative.choose(scores.lamp(model), 0.9)
    assert all(m.any() for m in kept.values())
    assert not iterative.choose(scores.magnitude(model), 0.9)["2.weight"].any()


def test_lamp_counts_masked_weights_as_zero(model):
    masks = iterative.choose(scores.magnitude(model), 0.5)
    inside = scores.lamp(model, masks=masks)
    iterative.apply_masks(model, masks)
    outside = scores.lamp(model)
    assert all(torch.equal(inside[n], outside[n]) for n in inside)


def test_snip_is_the_first_order_change_of_the_loss(model):
    x, y = data()
    found = scores.snip(model, lambda m: F.cross_entropy(m(x), y))
    assert all(p.grad is None for p in model.parameters())
    for name in ("0.weight", "2.weight"):
        weight = model.get_parameter(name)
        for place in ((0, 0), (2, 3)):
            value, step = float(weight[place].detach()), 1e-6
            losses = []
            for factor in (1 + step, 1 - step):
                with torch.no_grad():
                    weight[place] = value * factor
                    losses.append(float(F.cross_entropy(model(x), y)))
                    weight[place] = value
            slope = abs(losses[0] - losses[1]) / (2 * step)
            assert abs(float(found[name][place]) - slope) < 1e-7


def test_snip_reads_frozen_weights_and_leaves_them_frozen(model):
    x, y = data()
    free = scores.snip(model, lambda m: F.cross_entropy(m(x), y))
    model.requires_grad_(False)
    frozen = scores.snip(model, lambda m: F.cross_entropy(m(x), y))
    assert all(torch.equal(free[n], frozen[n]) for n in free)
    assert not any(p.requires_grad for p in model.parameters())


def test_the_surgeons_score_is_that_of_the_dense_inverse(model):
    g = torch.Generator().manual_seed(2)
    size = sum(p.numel() for p in (model[0].weight, model[2].weight))
    rows = torch.randn(7, size, generator=g, dtype=torch.float64)
    masks = iterative.choose(scores.magnitude(model), 0.4)
    w = torch.cat([model[0].weight.detach().flatten(), model[2].weight.detach().flatten()])
    for kept in (None, masks):
        held = rows if kept is None else rows * torch.cat([m.flatten() for m in kept.values()])
        inverse = torch.linalg.inv(1e-2 * torch.eye(size, dtype=torch.float64) + held.T @ held / 7)
        found = scores.surgeon(model, rows, damp=1e-2, masks=kept)
        got = torch.cat([s.flatten() for s in found.values()])
        torch.testing.assert_close(got, w.square() / (2 * inverse.diagonal()))


def test_bad_input_is_refused(model):
    with pytest.raises(ValueError, match="does not depend"):
        scores.snip(model, lambda m: m[0](data()[0]).sum())
    with pytest.raises(ValueError, match="finite"):
        scores.snip(model, lambda m: m(data()[0]).sum() * torch.inf)
    with pytest.raises(ValueError, match=r"\(samples, 35\)"):
        scores.surgeon(model, torch.ones(3, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="matches"):
        scores.magnitude(model, "bias")
