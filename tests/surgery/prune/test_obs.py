import pytest
import torch
from torch import nn

from gramian.surgery.prune import obs


def network():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model, torch.randn(9, 32, generator=g, dtype=torch.float64)


def flat(model):
    return torch.cat([w.detach().flatten() for w in obs.prunable(model).values()])


def test_one_round_is_the_formula_with_the_dense_inverse():
    model, rows = network()
    w = flat(model)
    inverse = torch.linalg.inv(1e-2 * torch.eye(32, dtype=torch.float64) + rows.T @ rows / 9)
    order = (w.square() / inverse.diagonal()).argsort()[:8]
    want = w - sum(w[i] / inverse[i, i] * inverse[:, i] for i in order)
    want[order] = 0
    done = obs.obs_prune(model, rows, 0.25, rounds=1, damp=1e-2)
    torch.testing.assert_close(flat(model), want, rtol=1e-9, atol=1e-9)
    assert done.sparsity == 0.25
    assert not torch.cat([m.flatten() for m in done.masks.values()])[order].any()


def test_pruning_one_weight_is_the_constrained_minimum():
    model, rows = network()
    w = flat(model)
    fisher = 1e-2 * torch.eye(32, dtype=torch.float64) + rows.T @ rows / 9
    obs.obs_prune(model, rows, 1 / 32, rounds=1, damp=1e-2)
    new = flat(model)
    gone = int((new == 0).nonzero())
    others = [i for i in range(32) if i != gone]
    best = torch.linalg.solve(fisher[others][:, others], fisher[others, gone] * w[gone])
    torch.testing.assert_close(new[others] - w[others], best, rtol=1e-8, atol=1e-9)


def test_rounds_ask_for_gradients_again_and_never_bring_weights_back():
    model, rows = network()
    zeros = []

    def gradients(current):
        zeros.append(int((flat(current) == 0).sum()))
        return rows

    done = obs.obs_prune(model, gradients, 0.5, rounds=4, damp=1e-2)
    assert zeros == [0, 5, 9, 13]
    assert int((flat(model) == 0).sum()) == 16
    assert done.sparsity == 0.5


def test_magnitude_removes_the_smallest():
    model, _ = network()
    w = flat(model)
    obs.magnitude_prune(model, 0.5)
    assert (flat(model) == 0).equal(w.abs() <= w.abs().sort().values[15])


def test_bad_input_is_refused():
    model, rows = network()
    for sparsity in (-0.1, 1.0):
        with pytest.raises(ValueError, match="sparsity"):
            obs.obs_prune(model, rows, sparsity)
        with pytest.raises(ValueError, match="sparsity"):
            obs.magnitude_prune(model, sparsity)
    with pytest.raises(ValueError, match="needed is"):
        obs.obs_prune(model, rows[:, 1:], 0.5)
    with pytest.raises(ValueError, match="rounds"):
        obs.obs_prune(model, rows, 0.5, rounds=0)
    with pytest.raises(ValueError, match="NaN"):
        obs.obs_prune(model, rows * float("nan"), 0.5)
    with pytest.raises(ValueError, match="no parameter"):
        obs.prunable(model, "conv*")
