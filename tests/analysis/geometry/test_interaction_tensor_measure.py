"""The tensor on networks whose features are known."""

import pytest
import torch

from gramian.analysis.geometry.interaction_tensor import InteractionTensor, gini, principal_features


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_principal_features_are_uncorrelated_and_ordered():
    x = draw(60, 5) * torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]) + 3
    scores = principal_features(x, 3)
    assert torch.allclose(scores.T @ scores / 60, torch.eye(3).double(), atol=1e-10)
    assert torch.allclose(scores.mean(0), torch.zeros(3).double(), atol=1e-12)
    covariance = torch.cov(x.T, correction=0)
    values, vectors = torch.linalg.eigh(covariance)
    wanted = (x - x.mean(0)) @ vectors[:, -1] / values[-1].sqrt()
    assert torch.allclose(scores[:, 0].abs(), wanted.abs())


def test_alike_networks_share_all_and_strangers_nothing():
    x = draw(200, 8) * torch.arange(8, 0, -1)
    turn = torch.linalg.qr(draw(8, 8, seed=1)).Q
    alike = InteractionTensor(4).fit([x, 2 * x @ turn + 1, -x])
    assert alike.features == 4
    assert alike.owners.all()
    assert torch.equal(alike.frequency, torch.ones(4).double())
    assert torch.equal(alike.shared, torch.full((3, 3), 4.0).double())
    apart = InteractionTensor(3).fit([draw(200, 8, seed=s) for s in range(3)])
    assert apart.features == 9
    assert torch.equal(apart.shared, 3 * torch.eye(3).double())


def test_the_entries_are_those_of_a_loop():
    base = draw(50, 3) * torch.tensor([6.0, 4.0, 2.0])
    activations = [base + 0.3 * draw(50, 3, seed=s) for s in (1, 2)]
    found = InteractionTensor(3, 0.7, 0.4).fit(activations)
    wanted = torch.zeros(2, 50, found.features, dtype=torch.bool)
    for m, x in enumerate(activations):
        scores = principal_features(x, 3)
        for component in range(3):
            strong = scores[:, component].abs() / scores[:, component].abs().max() > 0.4
            wanted[m, :, found.labels[m, component]] |= strong
    assert torch.equal(found.tensor.to_dense(), wanted)
    assert torch.allclose(found.held, wanted.double().sum(2).mean(0))
    strict = InteractionTensor(3, 0.7, 1.0).fit(activations)
    assert strict.tensor.indices().shape[1] == 0


def test_gini():
    assert gini(torch.ones(7)) == pytest.approx(0.0)
    values = draw(9).abs()
    by_pairs = float((values[:, None] - values).abs().sum() / (2 * 9 * values.sum()))
    assert gini(values) == pytest.approx(by_pairs)
    with pytest.raises(ValueError, match="Gini"):
        gini(torch.tensor([1.0, -1.0]))


def test_what_does_not_fit_is_refused():
    x = draw(20, 4)
    with pytest.raises(ValueError, match="k=0"):
        InteractionTensor(0)
    for wrong in ({"gamma_corr": 0.0}, {"gamma_data": 1.2}):
        with pytest.raises(ValueError, match="threshold"):
            InteractionTensor(3, **wrong)
    with pytest.raises(ValueError, match="1 network"):
        InteractionTensor(2).fit([x])
    with pytest.raises(ValueError, match=r"\[10, 20\] points"):
        InteractionTensor(2).fit([x, x[:10]])
    with pytest.raises(ValueError, match="4 directions"):
        InteractionTensor(5).fit([x, x])
    with pytest.raises(ValueError, match="NaN"):
        InteractionTensor(2).fit([x, x / 0])
