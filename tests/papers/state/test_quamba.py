"""Row 54's checks fail when the method is not there."""

import torch

from gramian.linalg.factor.quant import absmax, observers
from gramian.linalg.signal import paley
from gramian.models.language.mamba_lm import MambaLM
from gramian.nn.quantized import mamba
from gramian.papers.state import quamba as row
from gramian.surgery.quantize import quamba, rotation
from support import status_of


def test_a_matrix_of_random_signs_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(row, "SIZES", (48,))
    monkeypatch.setattr(paley, "hadamard_of_size", lambda n, *a, **k: torch.randn(n, n).sign())
    status, run = status_of(row.hadamard_matrices_exist, tmp_path)
    assert status == "failed"
    assert not run.checks[0].ok


def test_a_transform_that_does_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(paley, "hadamard_transform", lambda x, *a, **k: x)
    assert status_of(row.outliers_are_spread, tmp_path)[0] == "failed"


def test_norms_that_are_dropped_and_not_folded_fail(tmp_path, monkeypatch):
    def dropped(model):
        rotation.untie(model)
        for norm in [model.backbone.norm_f, *(block.norm for block in model.backbone.layers)]:
            norm.weight.data.fill_(1.0)

    monkeypatch.setattr(rotation, "fold_norms", dropped)
    status, run = status_of(row.turned_model_is_the_model, tmp_path)
    assert status == "failed"
    assert not run.checks[0].ok


def test_a_turn_that_does_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(rotation, "rotate_stream", lambda model: None)
    assert status_of(row.turned_model_is_the_model, tmp_path)[0] == "failed"


def test_the_largest_in_place_of_the_percentile_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(observers, "Percentile", lambda alpha: observers.LargestMagnitude())
    assert status_of(row.spikes_are_cut, tmp_path)[0] == "failed"


def test_products_off_by_one_fail(tmp_path, monkeypatch):
    right = absmax.int8_matmul
    monkeypatch.setattr(absmax, "int8_matmul", lambda a, b, *more: right(a, b, *more) + 1)
    status, run = status_of(row.integers_are_what_they_simulate, tmp_path)
    assert status == "failed"
    assert not run.checks[0].ok


def test_steps_that_forget_fail(tmp_path, monkeypatch):
    right = mamba.QuantMamba.forward
    monkeypatch.setattr(mamba.QuantMamba, "step", lambda self, x, state=None: (right(self, x[:, None])[0][:, 0], state))
    status, run = status_of(row.integers_are_what_they_simulate, tmp_path)
    assert status == "failed"
    assert not run.checks[1].ok


def test_a_quantizer_that_does_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(quamba, "quantize_mamba", lambda model, *a, **k: model)
    assert status_of(row.integers_are_what_they_simulate, tmp_path)[0] == "failed"


def test_a_quantizer_that_loses_the_weights_fails(tmp_path, monkeypatch):
    def lost(model: MambaLM, *a, **k):
        new = MambaLM(256, 32, 2, state_size=8, generator=torch.Generator().manual_seed(1))
        return new.eval()

    monkeypatch.setattr(quamba, "quantize_mamba", lost)
    status, run = status_of(row.perplexity_stays, tmp_path, steps=20, channels=32, seeds=1)
    assert status == "failed"
    assert not run.checks[0].ok


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(row.experiment, tmp_path)
    assert status == "ok", [c.claim for c in run.checks if not c.ok]
