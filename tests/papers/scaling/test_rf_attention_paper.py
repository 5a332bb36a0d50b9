import numpy as np
import torch

from gramian.estimators.regression import random_features
from gramian.linalg.random import arc_cosine
from gramian.nn.attention import rf_attention as attention
from gramian.papers.scaling import rf_attention
from support import status_of


def fails(run, status, *parts):
    claims = [c.claim for c in run.checks if not c.ok]
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in claims), (part, claims)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(rf_attention.experiment, tmp_path)
    assert status == "ok", [c.as_dict() for c in run.checks if not c.ok]


def test_a_kernel_without_the_sine_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(arc_cosine, "relu_product", lambda cosine: cosine.clamp(min=0) / 2)
    status, run = status_of(rf_attention.kernel_is_the_limit, tmp_path, heads=20_000)
    fails(run, status, "closed form")


def test_heads_that_know_places_fail(tmp_path, monkeypatch):
    right = attention.RandomFeatureAttention.feature_map

    def placed(self, x):
        return right(self, x * torch.linspace(0.5, 1.5, x.shape[1], dtype=x.dtype)[:, None])

    monkeypatch.setattr(attention.RandomFeatureAttention, "feature_map", placed)
    status, run = status_of(rf_attention.kernel_is_the_limit, tmp_path, heads=20_000)
    fails(run, status, "change places", "closed form")


def test_a_mean_over_all_tokens_in_place_of_heads_fails(tmp_path, monkeypatch):
    def pooled(self, x):
        return x.mean(1).repeat(1, self.value.shape[0] // x.shape[2] + 1)[:, : self.value.shape[0]]

    monkeypatch.setattr(attention.RandomFeatureAttention, "feature_map", pooled)
    status, run = status_of(rf_attention.kernel_is_the_limit, tmp_path, heads=20_000)
    fails(run, status, "becomes the query", "closed form")
    status, run = status_of(rf_attention.sets_are_learned, tmp_path, sizes=(300,), seeds=1, heads=20)
    fails(run, status, "⟨β, key⟩²", "keys like the query")


def test_values_that_are_not_fitted_fail(tmp_path, monkeypatch):
    right = random_features.RFAttentionRegressor.predict
    monkeypatch.setattr(random_features.RFAttentionRegressor, "predict", lambda self, X: np.zeros_like(right(self, X)))
    status, run = status_of(rf_attention.primal_is_dual, tmp_path)
    fails(run, status, "kernel ridge")
    status, run = status_of(rf_attention.sets_are_learned, tmp_path, sizes=(200,), seeds=1, heads=20)
    fails(run, status, "⟨β, key⟩²")
