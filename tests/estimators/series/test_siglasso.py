import numpy as np
import pytest
import torch
from sklearn.base import clone

from gramian.estimators.series.siglasso import NotConverged, SigLasso
from gramian.linalg.signal.signature import signature


def individuals(count=40, seed=0):
    """Smooth paths on irregular grids, and a target that is an integral of theirs."""
    rng = np.random.default_rng(seed)
    paths, times, targets, at = [], [], [], []
    for _ in range(count):
        t = np.concatenate([[0.0], np.sort(rng.uniform(0.05, 0.95, 8)), [1.0]])
        x = np.cumsum(rng.standard_normal((len(t), 2)) * 0.4, 0)
        when = np.sort(rng.choice(t, 4, replace=False))
        rows = torch.from_numpy(np.column_stack([t, x]))[None]
        levels = np.concatenate([np.zeros((1, 12)), signature(rows, 2, stream=True)[0].numpy()])
        y = 1.5 + levels[:, 1] - 2 * levels[:, 3 + 5]  # ∫dx₁ − 2 ∫∫ dx₁ dx₂
        paths.append(x)
        times.append(t)
        targets.append(y[np.searchsorted(t, when)])
        at.append(when)
    return paths, times, targets, at


def test_a_functional_of_the_path_is_found():
    paths, times, y, at = individuals()
    model = SigLasso(depth=3).fit(paths, times, y, at)
    fresh = individuals(20, seed=1)
    found = model.predict_trajectory(*fresh[:2], fresh[3])
    error = np.concatenate(found) - np.concatenate(fresh[2])
    assert np.square(error).mean() < 1e-3 * np.concatenate(fresh[2]).var()
    assert model.intercept_ == pytest.approx(1.5, abs=0.02)
    assert model.coefficients_[1] * 1 == pytest.approx(model.scale_, rel=0.05)
    ends = model.predict(*fresh[:2])
    np.testing.assert_allclose(ends, [f[-1] for f in model.predict_trajectory(*fresh[:2], [t[-1:] for t in fresh[1]])])


def test_weights_and_scales_are_choices():
    paths, times, y, at = individuals(15)
    for options in ({"weighted": True}, {"standardize": False}):
        model = clone(SigLasso(depth=2, folds=3, **options)).fit(paths, times, y, at)
        assert model.coefficients_.shape == (12,)
        assert np.isfinite(model.predict(paths, times)).all()


def test_a_hasty_descent_says_so():
    with pytest.warns(NotConverged, match="max_iter=1"):
        SigLasso(depth=3, max_iter=1, folds=3).fit(*individuals(15))


def test_bad_input_is_refused():
    paths, times, y, at = individuals(6)
    model = SigLasso(depth=2, folds=3)
    with pytest.raises(ValueError, match="do not increase"):
        model.fit(paths, [t[::-1] for t in times], y, at)
    with pytest.raises(ValueError, match="single point"):
        model.fit([paths[0][:1], *paths[1:]], [times[0][:1], *times[1:]], y, at)
    with pytest.raises(ValueError, match="path 0 holds NaN"):
        model.fit([paths[0] * np.nan, *paths[1:]], times, y, at)
    with pytest.raises(ValueError, match="y holds NaN"):
        model.fit(paths, times, [y[0] * np.nan, *y[1:]], at)
    with pytest.raises(ValueError, match="outside"):
        model.fit(paths, times, y, [at[0] + 5, *at[1:]])
    with pytest.raises(ValueError, match="as many entries"):
        model.fit(paths, times, [y[0][:1], *y[1:]], at)
    with pytest.raises(ValueError, match="folds"):
        SigLasso(folds=9).fit(paths, times, y, at)
    with pytest.raises(ValueError, match="lower depth"):
        SigLasso(depth=20, folds=3).fit(paths, times, y, at)
    fitted = model.fit(paths, times, y, at)
    with pytest.raises(ValueError, match="channels"):
        fitted.predict([p[:, :1] for p in paths], times)
    with pytest.raises(ValueError, match="as many of both"):
        fitted.predict(paths, times[:-1])
