import pytest
import torch
from torch import nn

from gramian.surgery.defend.eigenshield import EigenShield, outliers, robustness_score, shielded


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(samples=300):
    """Embeddings with axis 0 large, and an attack along axis 1."""
    clean = normal(samples, 12)
    clean[:, 0] *= 6
    attack = torch.zeros_like(clean)
    attack[:, 1] = 5 * normal(samples, seed=1)
    return clean, clean + attack


@pytest.mark.parametrize("shape", [(200, 30), (40, 90)])
def test_the_spectrum_is_that_of_the_covariance(shape):
    x = normal(*shape) @ normal(shape[1], shape[1], seed=1) / shape[1] ** 0.5
    x[:, 0] += 20 * normal(shape[0], seed=2)
    found = outliers(x)
    cov = torch.cov(x.T)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(cov).flip(0).clamp(min=0), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(cov @ found.vectors, found.vectors * found.values[: found.vectors.shape[1]])
    assert found.vectors.shape[1] >= 1
    assert float(found.vectors[0, 0].abs()) > 0.95


def test_scores_by_hand():
    clean = torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, -2.0]], dtype=torch.float64)
    moved = clean + torch.tensor([[0.5, 0.0], [-0.5, 0.0], [0.5, 3.0]], dtype=torch.float64)
    found = robustness_score(torch.eye(2, dtype=torch.float64), clean, moved)
    torch.testing.assert_close(found, torch.tensor([0.5 / (2 / 3), 1.0 / (4 / 3)], dtype=torch.float64))


def test_the_attack_s_direction_goes_and_the_other_stays():
    clean, attacked = planted()
    shield = EigenShield(0.5).fit(clean, attacked)
    assert len(shield.scores) == 2
    assert shield.basis.shape == (12, 1)
    assert float(shield.basis[0, 0].abs()) > 0.99
    once = shield.transform(attacked)
    torch.testing.assert_close(shield.transform(once), once)
    torch.testing.assert_close(shield.transform(clean.mean(0)), clean.mean(0))
    single = shield.transform(attacked.float().unflatten(0, (3, 100)))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double().flatten(0, 1), once, rtol=1e-4, atol=1e-4)


def test_another_score_decides():
    clean, attacked = planted()
    shield = EigenShield(0.5, score=lambda v, c, a: -robustness_score(v, c, a)).fit(clean, attacked)
    assert float(shield.basis[1, 0].abs()) > 0.99


def test_it_hangs_on_a_module_and_comes_off():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.Linear(12, 2)).double()
    clean, attacked = planted()
    shield = EigenShield(0.5).fit(clean, attacked)
    x = normal(5, 4, seed=3)
    plain = model(x)
    with shielded(model, "0", shield):
        found = model(x)
    torch.testing.assert_close(found, model[1](shield.transform(model[0](x))))
    assert torch.equal(model(x), plain)


def test_what_cannot_be_is_refused():
    clean, attacked = planted()
    with pytest.raises(ValueError, match="quantile"):
        EigenShield(0.0)
    with pytest.raises(ValueError, match="pair"):
        EigenShield().fit(clean, attacked[:10])
    with pytest.raises(ValueError, match="pair"):
        robustness_score(torch.eye(12), clean, attacked[:10])
    with pytest.raises(ValueError, match="fit first"):
        EigenShield().transform(clean)
    with pytest.raises(ValueError, match="do not fit"):
        EigenShield().fit(clean, attacked).transform(clean[:, :3])
    with pytest.raises(ValueError, match="at least 10"):
        outliers(clean[:5])
    with pytest.raises(ValueError, match="NaN"):
        outliers(clean * float("nan"))
    with pytest.raises(ValueError, match="nothing to keep"):
        EigenShield().fit(normal(300, 12), normal(300, 12))
