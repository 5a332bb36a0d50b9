import itertools

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

from gramian.analysis.geometry import collapse
from gramian.analysis.geometry.few_shot import episodes, few_shot_accuracy
from gramian.analysis.geometry.statistics import ClassStatistics, class_statistics
from gramian.linalg.manifold import frames


def labelled(seed=0, classes=4, rows=60, dim=7):
    generator = torch.Generator().manual_seed(seed)
    y = torch.cat((torch.arange(classes).repeat(2), torch.randint(classes, (rows - 2 * classes,), generator=generator)))
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return x + 3 * torch.randn(classes, dim, generator=generator, dtype=torch.float64)[y], y


def collapsed(classes=4, rows=20, dim=5):
    y = torch.arange(classes).repeat(rows)
    return frames.simplex(classes, dim, dtype=torch.float64)[y], y


def test_statistics_are_those_of_numpy_by_class():
    x, y = labelled()
    stats = class_statistics(x, y)
    scatter = torch.zeros(7, 7, dtype=torch.float64)
    for c in range(4):
        rows = x[y == c]
        torch.testing.assert_close(stats.means[c], rows.mean(0))
        torch.testing.assert_close(stats.variances[c], rows.var(0, correction=0).sum())
        scatter += torch.cov(rows.T, correction=0) * len(rows)
    torch.testing.assert_close(stats.scatter, scatter)
    torch.testing.assert_close(stats.within, scatter / 60)


@hypothesis.given(st.integers(0, 10**6), st.lists(st.integers(1, 59), max_size=4, unique=True))
@hypothesis.settings(max_examples=8)
def test_streams_and_shards_give_the_batch(seed, cuts):
    x, y = labelled(seed)
    x = x + 1e4  # far from the origin
    whole, stream, shards = class_statistics(x, y), ClassStatistics(4), ClassStatistics(4)
    bounds = [0, *sorted(cuts), 60]
    for begin, end in reversed(list(itertools.pairwise(bounds))):
        stream.update(x[begin:end], y[begin:end])
        shards.merge(class_statistics(x[begin:end], y[begin:end], classes=4))
    for other in (stream, shards):
        assert torch.equal(other.counts, whole.counts)
        torch.testing.assert_close(other.means, whole.means, rtol=1e-10, atol=0)
        torch.testing.assert_close(other.spreads, whole.spreads, rtol=1e-8, atol=0)
        torch.testing.assert_close(other.scatter, whole.scatter, rtol=1e-8, atol=1e-8)


def test_collapsed_features_on_a_simplex_have_collapsed():
    x, y = collapsed()
    stats = class_statistics(3 * x + 1, y)
    assert float(collapse.nc1(stats)) < 1e-20
    assert float(collapse.nc1(stats, "trace")) < 1e-20
    assert max(float(v) for v in collapse.nc2(stats)) < 1e-12
    assert float(collapse.nc3(stats, frames.simplex(4, 5, dtype=torch.float64) * 7)) < 1e-7
    assert collapse.nc4(stats, 3 * x + 1, y) == 0
    assert float(collapse.cdnv(stats)) < 1e-20


def test_nc1_is_its_definition():
    x, y = labelled(3)
    stats = class_statistics(x, y)
    between = stats.between
    expected = torch.trace(stats.within @ torch.linalg.pinv(between, rtol=1e-12)) / 4
    torch.testing.assert_close(collapse.nc1(stats), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(collapse.nc1(stats, "trace"), stats.within.trace() / between.trace())


def test_measures_ignore_rotation_shift_and_scale():
    x, y = labelled(5)
    turn = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64)).Q
    a, b = class_statistics(x, y), class_statistics(5 * x @ turn - 2, y)
    for measure in (collapse.nc1, lambda s: collapse.nc1(s, "trace"), collapse.cdnv, lambda s: collapse.nc2(s).angles):
        torch.testing.assert_close(measure(a), measure(b))


def test_nc3_of_opposite_vectors_is_two_and_nc4_counts_disagreement():
    x, y = collapsed()
    stats = class_statistics(x, y)
    assert float(collapse.nc3(stats, -stats.means)) == pytest.approx(2.0)
    assert collapse.nc4(stats, x, (y + (torch.arange(80) < 20)) % 4) == pytest.approx(0.25)


def test_cdnv_of_pairs_by_hand():
    x = torch.tensor([[0.0], [2.0], [10.0], [14.0], [21.0], [21.0]])
    found = collapse.cdnv(class_statistics(x, torch.tensor([0, 0, 1, 1, 2, 2])), "pairs")
    expected = torch.tensor([[0, 5 / 242, 1 / 800], [5 / 242, 0, 4 / 162], [1 / 800, 4 / 162, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_gradients_flow_through_the_statistics():
    x, y = labelled(2, classes=3, rows=12, dim=4)
    x.requires_grad_()
    for measure in (collapse.cdnv, collapse.nc1, lambda s: collapse.nc2(s).angles, lambda s: collapse.nc2(s).norms):
        assert torch.autograd.gradcheck(lambda v, measure=measure: measure(class_statistics(v, y)), x)


def test_bad_input_is_refused():
    x, y = labelled()
    stats = class_statistics(x, y)
    lone = class_statistics(x[:5], torch.tensor([0, 0, 1, 1, 2]))
    with pytest.raises(ValueError, match="class 2 has 1"):
        collapse.cdnv(lone)
    with pytest.raises(ValueError, match="classes 0 and 1 coincide"):
        collapse.cdnv(class_statistics(torch.tensor([[1.0], [-1], [2], [-2]]), torch.tensor([0, 0, 1, 1])))
    with pytest.raises(ValueError, match="all class means coincide"):
        collapse.nc1(class_statistics(torch.tensor([[1.0], [-1], [2], [-2]]), torch.tensor([0, 0, 1, 1])))
    with pytest.raises(ValueError, match="at least two"):
        collapse.nc1(class_statistics(x, y * 0))
    with pytest.raises(ValueError, match="do not fit 3 classes"):
        class_statistics(x, y, classes=3)
    with pytest.raises(ValueError, match="NaN"):
        class_statistics(x / 0, y)
    with pytest.raises(ValueError, match="do not join"):
        stats.update(x[:, :3], y)
    with pytest.raises(ValueError, match="4 and 5 classes"):
        stats.merge(ClassStatistics(5))
    with pytest.raises(ValueError, match="does not match"):
        collapse.nc3(stats, torch.ones(4, 3))
    with pytest.raises(ValueError, match="length zero"):
        collapse.cosines(torch.zeros(2, 3))


def test_episodes_hold_distinct_rows_of_their_classes():
    y = torch.tensor([0] * 9 + [1] * 5 + [7] * 6)
    learn, test = episodes(y, 2, 2, 3, 40, torch.Generator().manual_seed(0))
    assert learn.shape == (40, 2, 2)
    assert test.shape == (40, 2, 3)
    rows = torch.cat((learn, test), -1)
    for episode in rows:
        assert len(episode.flatten().unique()) == 10
        names = y[episode]
        assert bool((names == names[:, :1]).all())
        assert names[0, 0] != names[1, 0]
    assert set(rows.flatten().tolist()) == set(range(20))


def test_few_shot_accuracy_is_that_of_nearest_centroids():
    x, y = labelled(1, classes=4, rows=120)
    settings = {"ways": 3, "shots": 2, "queries": 5}
    found = few_shot_accuracy(x, y, count=12, generator=torch.Generator().manual_seed(3), **settings)
    learn, test = episodes(y, **settings, count=12, generator=torch.Generator().manual_seed(3))
    for e in range(12):
        model = NearestCentroid().fit(x[learn[e].flatten()].numpy(), y[learn[e].flatten()].numpy())
        score = model.score(x[test[e].flatten()].numpy(), y[test[e].flatten()].numpy())
        assert score == pytest.approx(float(found.accuracies[e]))
    assert found.mean == pytest.approx(float(found.accuracies.mean()))


def test_episodes_that_do_not_fit_are_refused():
    y = torch.tensor([0] * 9 + [1] * 5)
    for settings, message in (
        ({"ways": 3}, "only 2 classes"), ({"shots": 4}, "class 1 has 5"), ({"queries": 0}, "queries=0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            episodes(y, **({"ways": 2, "shots": 1, "queries": 2, "count": 3} | settings))
    with pytest.raises(ValueError, match="two episodes"):
        few_shot_accuracy(torch.rand(14, 2), y, ways=2, shots=1, queries=1, count=1)
