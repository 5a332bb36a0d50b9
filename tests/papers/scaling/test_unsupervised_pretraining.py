import numpy as np

from gramian.estimators.regression import pretrain_then_fit as pretrain
from gramian.papers.scaling import unsupervised_pretraining
from support import status_of


def fails(run, status, *parts):
    claims = [c.claim for c in run.checks if not c.ok]
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in claims), (part, claims)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(unsupervised_pretraining.experiment, tmp_path)
    assert status == "ok", [c.as_dict() for c in run.checks if not c.ok]


def test_random_loadings_fail(tmp_path, monkeypatch):
    right = pretrain.FactorModel.fit

    def random(self, X, y=None):
        right(self, X)
        self.loadings_ = np.random.default_rng(0).standard_normal(self.loadings_.shape)
        return self

    monkeypatch.setattr(pretrain.FactorModel, "fit", random)
    status, run = status_of(unsupervised_pretraining.likelihood_is_maximal, tmp_path)
    fails(run, status, "log-likelihood", "gradient")
    status, run = status_of(unsupervised_pretraining.labels_are_saved, tmp_path, seeds=2)
    fails(run, status, "worst", "mean excess")
    status, run = status_of(unsupervised_pretraining.rates_are_one, tmp_path, seeds=2, most=3000)
    fails(run, status, "unlabelled samples")


def test_a_constant_prediction_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain.PretrainThenFit, "predict", lambda self, X: np.zeros(len(X)))
    status, run = status_of(unsupervised_pretraining.labels_are_saved, tmp_path, seeds=2)
    fails(run, status, "mean excess")
    status, run = status_of(unsupervised_pretraining.rates_are_one, tmp_path, seeds=2, most=3000)
    fails(run, status, "over labelled samples")
    status, run = status_of(unsupervised_pretraining.one_label_a_component, tmp_path, seeds=1)
    fails(run, status, "mixture")


def test_a_ratio_that_is_always_the_same_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "informative_ratio", lambda model, covariance, with_target: 1.0)
    status, run = status_of(unsupervised_pretraining.blindness_is_flagged, tmp_path)
    fails(run, status, "the same")


def test_responsibilities_of_the_wrong_components_fail(tmp_path, monkeypatch):
    right = pretrain.MixtureModel.transform
    monkeypatch.setattr(pretrain.MixtureModel, "transform", lambda self, X: np.full_like(right(self, X), 0.2))
    status, run = status_of(unsupervised_pretraining.one_label_a_component, tmp_path, seeds=1)
    fails(run, status, "mixture")
