"""Row 121's checks fail when the method is not there."""

import torch

from gramian.nn.quantized import scaled_sign
from gramian.objectives import distill
from gramian.papers.state import bi_mamba as row
from gramian.surgery import swap
from gramian.surgery.quantize import binary
from support import status_of


def test_a_layer_that_keeps_its_floats_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(scaled_sign.SignLinear, "effective_weight", property(lambda self: self.weight))
    assert status_of(row.layer_is_its_formula, tmp_path)[0] == "failed"


def test_a_sign_without_gradient_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(scaled_sign, "straight_sign", lambda w: torch.where(w >= 0, 1.0, -1.0).to(w.dtype) + 0 * w)
    assert status_of(row.layer_is_its_formula, tmp_path)[0] == "failed"


def test_a_binarizer_that_does_nothing_fails(tmp_path, monkeypatch):
    def nothing(model, *a, **k):
        return swap.Handle(model, {}, {})

    monkeypatch.setattr(binary, "binarize", nothing)
    monkeypatch.setattr(binary, "pack", nothing)
    assert status_of(row.packing_keeps_the_model, tmp_path)[0] == "failed"


def test_squared_error_in_place_of_the_soft_loss_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "soft_cross_entropy", lambda s, t: (s - t).square().mean())
    assert status_of(row.teacher_is_the_least, tmp_path)[0] == "failed"


def test_other_projections_miss_the_papers_share(tmp_path, monkeypatch):
    monkeypatch.setattr(binary, "PROJECTIONS", ("*.in_proj",))
    assert status_of(row.sizes_are_the_papers, tmp_path)[0] == "failed"


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(row.experiment, tmp_path)
    assert status == "ok", [c.claim for c in run.checks if not c.ok]
