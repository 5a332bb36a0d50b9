import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.manifold.frames import simplex
from gramian.objectives import collapse


def batch(rows=12, dim=4, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return features, torch.randint(0, classes, (rows,), generator=generator)


def test_within_class_counts_every_class_alike():
    h, y = torch.tensor([[1.0], [3.0], [3.0], [3.0]]), torch.tensor([0, 1, 1, 1])
    means = torch.tensor([[0.0], [1.0], [9.0]])
    assert float(collapse.within_class(h, y, means)) == pytest.approx((1 + 4) / 2)
    assert float(collapse.within_class(h[:0], y[:0], means)) == 0


def test_gradients_are_exact():
    h, y = batch()
    means = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inputs = h.requires_grad_(), means.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: collapse.within_class(a, y, b), inputs)
    assert torch.autograd.gradcheck(collapse.min_angle, (means,))


@settings(max_examples=10)
@given(scale=st.floats(0.1, 10), shift=st.floats(-3, 3), classes=st.integers(2, 6))
def test_the_angle_knows_neither_scale_nor_place_and_the_simplex_is_best(scale, shift, classes):
    means = torch.randn(classes, 7, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)
    value = collapse.min_angle(means)
    torch.testing.assert_close(collapse.min_angle(scale * means + shift), value, rtol=1e-5, atol=1e-6)
    best = collapse.min_angle(simplex(classes, 7, dtype=torch.float64))
    assert float(best) == pytest.approx(-math.acos(max(-1.0, -1 / (classes - 1))), abs=1e-6)
    assert float(best) <= float(value) + 1e-9


def test_running_means_start_with_the_first_batch_and_keep_absent_classes():
    means = collapse.ClassMeans(3, 2, momentum=0.5)
    first = means(torch.tensor([[2.0, 0.0], [4.0, 0.0]]), torch.tensor([1, 1]))
    torch.testing.assert_close(first[1], torch.tensor([3.0, 0.0]))
    assert means.seen.tolist() == [False, True, False]
    second = means(torch.tensor([[1.0, 0.0], [0.0, 5.0]]), torch.tensor([1, 2]))
    torch.testing.assert_close(second, torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 5.0]]))
    means.eval()
    means(torch.tensor([[9.0, 9.0]]), torch.tensor([0]))
    assert means.seen.tolist() == [False, True, True]


def test_the_regularizer_leaves_out_classes_that_it_has_not_seen():
    regularizer = collapse.NCRegularizer(4, 3, within=0.0, between=1.0, momentum=0.0)
    h = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    terms = regularizer(h, torch.tensor([0, 3]))
    assert float(terms.between) == pytest.approx(-math.pi, abs=1e-5)
    assert float(terms.total) == pytest.approx(float(terms.between))
    alone = regularizer.__class__(4, 3)(h[:1], torch.tensor([2]))
    assert float(alone.total) == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        collapse.ClassMeans(1, 3)
    with pytest.raises(ValueError, match="momentum"):
        collapse.ClassMeans(3, 3, momentum=1.0)
    with pytest.raises(ValueError, match="negative"):
        collapse.NCRegularizer(3, 3, within=-1.0)
    with pytest.raises(ValueError, match="at least two"):
        collapse.min_angle(torch.ones(1, 2))
    for labels in ([0, 3], [-1, 0]):
        with pytest.raises(ValueError, match="do not fit 3 classes"):
            collapse.NCRegularizer(3, 3)(torch.ones(2, 3), torch.tensor(labels))
    with pytest.warns(collapse.SimplexImpossible, match="at least 4"):
        collapse.NCRegularizer(5, 3)
