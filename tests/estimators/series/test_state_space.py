import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from gramian.estimators.series import StateSpaceClassifier
from gramian.models.sequence.classifier import LAYERS, STEPPED


def series(n=40, length=20, seed=0):
    """Two classes that differ in how fast they swing, not in their mean."""
    rng = np.random.default_rng(seed)
    labels = np.array(["fast", "slow"])[rng.integers(0, 2, n)]
    phase, t = rng.uniform(0, 6, (n, 1)), np.arange(length)
    speed = np.where(labels == "fast", 1.5, 0.4)[:, None]
    waves = np.stack([np.sin(speed * t + phase), np.cos(speed * t + phase)], -1)
    return waves + 0.1 * rng.normal(size=waves.shape), labels


def small(layer="s4d", **options):
    return StateSpaceClassifier(
        layer, **({"channels": 8, "depth": 1, "state_size": 8, "epochs": 12, "lr": 0.03} | options)
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_learns_and_predicts(layer):
    x, y = series(80)
    model = small(layer, epochs=20, batch_size=16).fit(x, y)
    x_test, y_test = series(60, seed=1)
    assert model.score(x_test, y_test) >= 0.9
    probabilities = model.predict_proba(x_test)
    assert probabilities.shape == (60, 2)
    assert np.allclose(probabilities.sum(1), 1)
    assert (model.classes_[probabilities.argmax(1)] == model.predict(x_test)).all()


def test_contract_of_an_estimator(tmp_path):
    x, y = series()
    model = small(random_state=3).fit(x, y)
    expected = model.predict_proba(x)
    assert clone(model).get_params() == model.get_params()
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x), expected)
    torch.manual_seed(123)  # torch's own state must not matter, nor be changed
    before = torch.get_rng_state()
    assert np.array_equal(small(random_state=3).fit(x, y).predict_proba(x), expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert not np.array_equal(small(random_state=4).fit(x, y).predict_proba(x), expected)
    assert np.array_equal(model.fit(x, y).predict_proba(x), expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_saved_and_loaded_predicts_the_same(tmp_path, layer):
    x, y = series()
    model = small(layer, epochs=2, dt_range=(0.01, 1.0) if layer in STEPPED else None).fit(x, y)
    model.save(tmp_path / "model.safetensors")
    loaded = StateSpaceClassifier.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.predict_proba(x), model.predict_proba(x))
    assert (loaded.predict(x) == model.predict(x)).all()
    assert loaded.get_params() == model.get_params()
    (tmp_path / "cut").write_bytes((tmp_path / "model.safetensors").read_bytes()[:100])
    with pytest.raises(ValueError):
        StateSpaceClassifier.load(tmp_path / "cut")


def test_ragged_series_are_refused_with_advice():
    x, y = series(4)
    ragged = [x[0], x[1][:7], x[2], x[3]]
    with pytest.raises(ValueError, match=r"unequal lengths \(7 to 20\).*pad"):
        small().fit(ragged, y)
    assert len(small(epochs=1).fit(list(x), np.array(["a", "b", "a", "b"])).predict(list(x))) == 4


@pytest.mark.parametrize(("change", "message"), [
    (lambda x, y: (x[..., 0], y), "n, length, channels"), (lambda x, y: (x[:0], y[:0]), "n, length, channels"),
    (lambda x, y: (np.where(x > 1, np.nan, x), y), "NaN"), (lambda x, y: (x, y[:-1]), "one label a series"),
    (lambda x, y: (x, np.full(len(y), "a")), "one class"), (lambda x, y: (np.full(x.shape, "a"), y), "numeric"),
])  # fmt: skip
def test_bad_series_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        small().fit(*change(*series(10)))


def test_other_bad_uses_are_refused():
    x, y = series(10)
    for options in (
        {"layer": "lstm"},
        {"validation_fraction": 1.0},
        {"state_size": 7},
        {"layer": "gla", "dt_range": (0.1, 1.0)},
    ):
        with pytest.raises(ValueError):
            small(**options).fit(x, y)
    with pytest.raises(ValueError, match="channels"):
        small(epochs=1).fit(x, y).predict(x[..., :1])


def test_tiny_and_unbalanced_sets():
    x, y = series(3)
    labels = np.array([2.0, 1.0, 2.0])
    assert small(epochs=2).fit(x, labels).predict(x).dtype == labels.dtype
    assert small(epochs=2).fit(x[:2], labels[:2]).predict(x).shape == (3,)
