import pytest
import scipy.linalg
import torch

from gramian.analysis.metrics.frechet import frechet_distance


def samples(seed, count=60):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=g) @ torch.randn(4, 4, generator=g) + torch.randn(4, generator=g)


def test_it_is_the_formula_with_scipys_matrix_root():
    a, b = samples(0), samples(1, 90)
    one, two = a.double().T.cov().numpy(), b.double().T.cov().numpy()
    shape = (one + two - 2 * scipy.linalg.sqrtm(one @ two).real).trace()
    want = float((a.double().mean(0) - b.double().mean(0)).square().sum()) + shape
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(want, rel=1e-8)


def test_a_set_is_at_no_distance_from_itself():
    assert abs(frechet_distance(samples(0), samples(0))) < 1e-6


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="more samples"):
        frechet_distance(samples(0, 4), samples(1))
    broken = samples(0)
    broken[3, 2] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(samples(1), broken)
