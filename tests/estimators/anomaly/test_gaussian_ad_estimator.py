import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.stats import chi2
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.utils.estimator_checks import check_estimator

from gramian import data
from gramian.estimators.anomaly import GaussianAD, LevelFeatures, image_detector
from gramian.tasks.support import persistence

needs_network = pytest.mark.skipif(
    not data.is_here("efficientnet_lite0"), reason="gramian data fetch efficientnet_lite0"
)


def levels(samples=30, widths=(4, 50), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(samples, k)) * np.arange(1, k + 1) + 2 for k in widths]


@pytest.mark.parametrize("reduction", [None, "pca", "npca"])
def test_scikit_learns_own_checks_pass(reduction):
    why = "wants an anomaly among the training samples; a chi-square working point need not call any so"
    own = dict.fromkeys(("check_outliers_train", "check_outliers_fit_predict"), why)
    results = check_estimator(GaussianAD(reduction), expected_failed_checks=own)
    assert len(results) > 40
    assert {r["check_name"] for r in results if r["status"] == "failed"} == set()


def test_distances_are_scipys():
    train, test = levels(), levels(5, seed=1)
    detector = GaussianAD().fit(train)
    for i, (level, new) in enumerate(zip(train, test)):
        fitted = LedoitWolf().fit(level)
        expected = [mahalanobis(x, fitted.location_, fitted.precision_) for x in new]
        np.testing.assert_allclose(detector.level_distances(test)[:, i], expected, rtol=1e-8)
        np.testing.assert_allclose(detector.whiteners_[i] @ detector.whiteners_[i].T, fitted.precision_, rtol=1e-6)
    np.testing.assert_allclose(detector.distance(test), detector.level_distances(test).mean(axis=1))
    np.testing.assert_allclose(detector.score_samples(test), -detector.distance(test))


@pytest.mark.parametrize("reduction", [None, "pca", "npca"])
def test_units_and_origin_of_the_features_do_not_matter(reduction):
    train, test = levels(), levels(5, seed=1)
    moved = [[1e-6 * x - 7e-6 for x in part] for part in (train, test)]
    expected = GaussianAD(reduction).fit(train).distance(test)
    np.testing.assert_allclose(GaussianAD(reduction).fit(moved[0]).distance(moved[1]), expected, rtol=1e-6)


def test_the_crossing_component_is_kept_from_both_sides():
    x = np.concatenate([np.diag([10.0, 5.0, 1.0, 0.1]), -np.diag([10.0, 5.0, 1.0, 0.1])])  # variances 100, 25, 1, .01
    kept = {}
    for reduction in ("pca", "npca"):
        whitener = GaussianAD(reduction, variance=0.99).fit(x).whiteners_[0]
        kept[reduction] = np.flatnonzero(np.abs(whitener).sum(axis=1) > 1e-9).tolist()
    assert kept == {"pca": [0, 1], "npca": [0, 1, 2, 3]}  # 125/126.01 crosses .99: PCA with it, NPCA from one before
    assert GaussianAD("npca", variance=0.995).fit(x).whiteners_[0].shape == (4, 3)
    assert GaussianAD("npca", variance=0.5).fit(x).whiteners_[0].shape == (4, 4)


def test_a_direction_without_variance_is_not_kept():
    train = levels(samples=20, widths=(60,))[0]
    assert GaussianAD("npca", variance=0.9).fit(train).whiteners_[0].shape[1] < 19
    assert GaussianAD("pca", variance=0.999999).fit(train).whiteners_[0].shape[1] <= 19


def test_the_working_point_is_the_chi_square_quantile():
    rng = np.random.default_rng(0)
    detector = GaussianAD().fit(rng.normal(size=(20_000, 8)))
    assert detector.threshold(0.9) == pytest.approx(np.sqrt(chi2.ppf(0.9, 8)))
    assert (detector.predict(rng.normal(size=(20_000, 8)), 0.9) == -1).mean() == pytest.approx(0.1, abs=0.01)
    several = GaussianAD().fit(levels())
    assert several.threshold(0.5) == pytest.approx(np.mean([np.sqrt(chi2.ppf(0.5, k)) for k in (4, 50)]))
    assert several.offset_ == -several.threshold(0.9973)


def test_a_refit_forgets_and_a_clone_is_unfitted():
    train, other = levels(), levels(seed=5)
    detector = GaussianAD("npca", variance=0.9).fit(train)
    again = clone(detector)
    assert again.get_params() == {"reduction": "npca", "variance": 0.9}
    assert not hasattr(again, "whiteners_")
    np.testing.assert_array_equal(detector.fit(other).distance(train), again.fit(other).distance(train))
    matrix = other[0]
    np.testing.assert_array_equal(detector.fit(matrix).distance(matrix), clone(again).fit(matrix).distance(matrix))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: [x[0][:1], x[1][:1]], "minimum of 2 is required"),
        (lambda x: [x[0], x[1][:5]], "have \\[30, 5\\] samples"),
        (lambda x: [x[0], x[1] * np.nan], "level 1 contains NaN"),
        (lambda x: [x[0], x[1] * np.inf], "level 1 contains infinity"),
        (lambda x: [np.ones_like(x[0]), x[1]], "level 0 is the same for all 30"),
    ],
)
def test_bad_levels_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        GaussianAD().fit(change(levels()))


def test_levels_other_than_the_fitted_ones_are_refused():
    detector = GaussianAD().fit(levels())
    with pytest.raises(ValueError, match=r"fitted on levels of widths \(4, 50\), got \(4,\)"):
        detector.distance(levels()[:1])
    with pytest.raises(ValueError, match="fitted on 2 levels, got one matrix"):
        detector.distance(levels()[0])
    with pytest.raises(ValueError, match="fitted on one matrix, got 2 levels"):
        GaussianAD().fit(levels()[0]).distance(levels())


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="reduction='ica'"):
        GaussianAD("ica").fit(levels())
    with pytest.raises(ValueError, match=r"variance=1\.0"):
        GaussianAD("pca", variance=1.0).fit(levels())
    with pytest.raises(ValueError, match="p=1"):
        GaussianAD().fit(levels()).predict(levels(), 1.0)


def pictures(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (40 + i, 48), dtype=np.uint8) for i in range(count)]


@needs_network
def test_features_are_pooled_levels_of_pictures_of_any_size():
    mixed = [*pictures(3), np.repeat(pictures(1)[0][:, :, None], 3, axis=2)]
    levels = LevelFeatures(size=64, batch_size=3).fit_transform(mixed)
    assert [x.shape for x in levels] == [(4, k) for k in (32, 16, 24, 40, 80, 112, 192, 320, 1280)]
    joined = LevelFeatures(size=64, join=True).fit_transform(mixed)
    np.testing.assert_allclose(joined, np.concatenate(levels, axis=1), atol=1e-5)
    np.testing.assert_allclose(joined[0], joined[3], atol=1e-5)  # grey, and the same in three channels


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="no pictures"):
        LevelFeatures().fit([])
    with pytest.raises(ValueError, match="picture 0 has shape \\(8, 8\\) and type float64"):
        LevelFeatures().fit([np.zeros((8, 8))])
    with pytest.raises(ValueError, match="'resnet' has no levels"):
        LevelFeatures("resnet").transform(pictures())


@needs_network
@pytest.mark.parametrize("reduction", [None, "npca"])
def test_a_saved_image_detector_predicts_the_same_and_holds_no_network(reduction, tmp_path):
    detector = image_detector(reduction, size=64).fit(pictures(12))
    size = persistence.save(detector, tmp_path)
    held = sum(w.size + m.size for w, m in zip(detector[-1].whiteners_, detector[-1].means_))
    assert size < 8 * held + 100_000
    again = persistence.load(tmp_path)
    np.testing.assert_array_equal(again.score_samples(pictures(seed=1)), detector.score_samples(pictures(seed=1)))
    np.testing.assert_array_equal(again.predict(pictures(seed=1)), detector.predict(pictures(seed=1)))
