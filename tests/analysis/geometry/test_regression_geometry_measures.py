import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from gramian.analysis.geometry.dimension import intrinsic_dimension, neighbour_distances
from gramian.analysis.geometry.regression_collapse import nrc1, nrc2, nrc3, regression_regime


def cloud(rows=200, dim=3, axes=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, dim, generator=generator, dtype=torch.float64) @ torch.randn(
        dim, axes, generator=generator, dtype=torch.float64
    )


def test_neighbours_are_those_of_scikit_learn_in_any_block():
    x = cloud() + 1e6
    expected = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(x.numpy() - 1e6).kneighbors(x.numpy() - 1e6)[0]
    for block in (7, 1024):
        np.testing.assert_allclose(neighbour_distances(x, 4, block).numpy(), expected[:, 1:], rtol=1e-6)


def test_maximum_likelihood_is_its_formula():
    x = cloud(60)
    r = neighbour_distances(x, 7).numpy()
    expected = 1 / np.mean([np.mean([np.log(row[6] / row[j]) for j in range(6)]) for row in r])
    assert intrinsic_dimension(x, "mle", neighbours=7) == pytest.approx(expected)


def test_the_digits_have_the_dimensions_of_scikit_dimension():
    """Figures of scikit-dimension 0.5.0; its TwoNN leaves out one ratio less."""
    x = torch.tensor(load_digits().data / 16)
    assert intrinsic_dimension(x, "mle", neighbours=20) == pytest.approx(6.844815332043865, rel=1e-9)
    assert intrinsic_dimension(x, "twonn", trim=0.1) == pytest.approx(8.908172764810415, rel=2e-4)


@pytest.mark.parametrize("method", ["twonn", "mle", "lpca"])
def test_three_dimensions_are_found(method):
    assert intrinsic_dimension(cloud(600), method) == pytest.approx(3, abs=0.45)


def test_trim_of_zero_leaves_the_last_ratio_out():
    assert intrinsic_dimension(cloud(300), trim=0.0) == pytest.approx(intrinsic_dimension(cloud(300)), rel=0.15)


def test_nrc1_is_differentiable_and_zero_in_a_plane():
    x = cloud(12, 3, 5)
    assert float(nrc1(x, 3)) == pytest.approx(0, abs=1e-12)
    noisy = (x + torch.randn(12, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: nrc1(v, 2), noisy)


def test_nrc2_looks_at_the_rows_of_the_weight():
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    x = torch.randn(50, 2, dtype=torch.float64) @ basis[:2]
    mix = torch.tensor([[1.0, 2.0], [0.5, -1.0]]).double()
    assert float(nrc2(x, mix @ basis[:2])) == pytest.approx(0, abs=1e-12)
    assert float(nrc2(x, basis[2:4])) == pytest.approx(1)
    repeated = basis[:1].repeat(2, 1)
    assert float(nrc2(x, repeated)) == pytest.approx(float(nrc2(x, basis[:1])))
    assert float(nrc2(x, torch.randn(2, 6).double())) >= float(nrc1(x, 2))


def test_nrc3_finds_the_offset():
    y = torch.randn(4000, 3, dtype=torch.float64) @ torch.diag(torch.tensor([3.0, 1.5, 1.0]).double())
    values, vectors = torch.linalg.eigh(torch.cov(y.T))
    root = vectors @ torch.diag(values.sqrt() - 0.5 * values[0].sqrt()) @ vectors.T
    weight = torch.linalg.cholesky(root).contiguous()
    assert float(nrc3(weight, y)) < 1e-5
    assert float(nrc3(torch.eye(3).double().flip(0) * torch.tensor([3.0, 1, 1]).double(), y)) > 0.01


def test_regimes_have_their_names():
    y = cloud(200, 4, 5, seed=1)
    assert regression_regime(cloud(200, 1, 16, seed=2), y).name == "over-compressed"
    wide = torch.randn(200, 16, generator=torch.Generator().manual_seed(3))
    found = regression_regime(wide, y)
    assert found.name == "under-compressed"
    assert found.features > found.targets


def test_bad_input_is_refused():
    x = cloud()
    for call, message in (
        (lambda: intrinsic_dimension(x[:19]), "at least 20"),
        (lambda: intrinsic_dimension(torch.cat((x, x[:20]))), "repeat others"),
        (lambda: intrinsic_dimension(x / 0), "NaN"),
        (lambda: intrinsic_dimension(x, trim=1.0), "trim=1.0"),
        (lambda: intrinsic_dimension(x, "mle", neighbours=2), "neighbours=2"),
        (lambda: intrinsic_dimension(x, "lpca", explained=0.0), "explained=0.0"),
        (lambda: neighbour_distances(x, 200), "neighbours=200"),
        (lambda: nrc1(x, 8), "targets < features"),
        (lambda: nrc1(x[:3], 3), "more rows"),
        (lambda: nrc1(torch.tensor([[1.0, 0], [0, 0], [-1, 0]]), 1), "row 1 is the mean"),
        (lambda: nrc2(x, torch.zeros(2, 8).double()), "span nothing"),
        (lambda: nrc2(x, torch.ones(2, 7)), "reads 7"),
        (lambda: nrc3(torch.ones(1, 8), x[:, :1]), "n ≥ 2"),
        (lambda: nrc3(torch.eye(2), torch.ones(30, 2)), "singular"),
        (lambda: regression_regime(x, x[:9]), "rows of features"),
        (lambda: regression_regime(x, torch.ones(200, 1)), "constant"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
