"""Row 12: the experiment passes, and fails where a stub stands in a method's place."""

import pytest
import torch
from torch import nn

from gramian.linalg.manifold import orthogonal
from gramian.models.generative import stylegan2
from gramian.optim import parametrize as parametrizations
from gramian.papers.geometry import householder_projector as row
from gramian.surgery import householder_projector as projector
from support import status_of


def false_checks(part, tmp_path):
    status, run = status_of(part, tmp_path)
    assert status == "failed"
    return [c.claim for c in run.checks if not c.ok]


@pytest.mark.slow
def test_the_quick_experiment_passes(tmp_path):
    status, run = status_of(row.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]


def test_an_identity_for_the_product_fails(tmp_path, monkeypatch):
    def stub(vectors, columns=None):
        return torch.eye(vectors.shape[-2], columns or vectors.shape[-2], dtype=vectors.dtype) + 0 * vectors[:, :1]

    monkeypatch.setattr(orthogonal, "householder_product", stub)
    assert len(false_checks(row.products_agree, tmp_path)) == 2
    assert len(false_checks(row.projection_starts_from_the_weight, tmp_path)) >= 2


def test_geqrfs_packed_output_taken_for_reflectors_fails(tmp_path, monkeypatch):
    def stub(frame):
        packed, _ = torch.geqrf(frame)
        return packed, packed.diagonal().sign()

    monkeypatch.setattr(orthogonal, "householder_vectors", stub)
    assert len(false_checks(row.projection_starts_from_the_weight, tmp_path)) >= 2


def test_a_free_low_rank_product_fails_after_training(tmp_path, monkeypatch):
    monkeypatch.setattr(parametrizations.HouseholderLowRank, "forward", lambda self, left, right: left @ right.mT)
    assert len(false_checks(row.projection_survives_training, tmp_path)) >= 1


def test_a_projection_that_keeps_every_direction_fails(tmp_path, monkeypatch):
    original = projector.project

    def stub(model, layers, rank):
        handle = original(model, layers, rank)
        for layer in handle.replacements.values():
            nn.utils.parametrize.register_parametrization(layer, "bias", nn.Identity())
            layer.forward = lambda w, layer=layer: nn.functional.linear(
                w, layer.weight + 0.1 * torch.eye(32), layer.bias
            )
        return handle

    monkeypatch.setattr(projector, "project", stub)
    assert "left out" in false_checks(row.left_out_directions_do_nothing, tmp_path)[0]


def test_another_generator_fails_the_count(tmp_path, monkeypatch):
    original = stylegan2.StyleGAN2Generator
    monkeypatch.setattr(stylegan2, "StyleGAN2Generator", lambda: original(channels={2**k: 512 for k in range(2, 11)}))
    assert false_checks(row.generator_has_the_published_size, tmp_path)
