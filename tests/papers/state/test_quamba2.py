"""Row 35's checks fail when the method is not there."""

import torch

from gramian.linalg.factor.quant import gptq, symmetric
from gramian.models.language.mamba2_lm import Mamba2LM
from gramian.nn.quantized import mamba2
from gramian.papers.state import quamba2 as row
from gramian.surgery.quantize import clusters, quamba2
from support import status_of


def _unsorted(magnitudes, num_groups, head_size, groups=(4, 4)):
    count = len(magnitudes)
    return clusters.Clusters(
        torch.arange(count // head_size), torch.arange(count), torch.zeros(count, dtype=torch.long)
    )


def test_an_order_that_moves_channels_alone_fails(tmp_path, monkeypatch):
    def half(model, orders):
        for block, order in zip(model.backbone.layers, orders, strict=True):
            weight = block.mixer.out_proj.weight
            weight.data = weight.data[:, order.channels]

    monkeypatch.setattr(quamba2, "reorder", half)
    status, run = status_of(row.reordering_changes_nothing, tmp_path)
    assert status == "failed"
    assert not run.checks[0].ok


def test_an_order_that_moves_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(quamba2, "reorder", lambda model, orders: None)
    status, run = status_of(row.reordering_changes_nothing, tmp_path)
    assert status == "failed"
    assert not run.checks[1].ok


def test_one_cluster_of_all_channels_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "sort_and_cluster", _unsorted)
    status, run = status_of(row.clusters_serve_small_channels, tmp_path)
    assert status == "failed"
    assert not run.checks[0].ok


def test_rounding_in_gptqs_place_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(gptq, "gptq", lambda w, gram, bits, group: symmetric.quantize_matrix(w, bits, group))
    assert status_of(row.gptq_beats_rounding, tmp_path)[0] == "failed"


def test_steps_that_forget_fail(tmp_path, monkeypatch):
    right = mamba2.QuantMamba2.forward
    monkeypatch.setattr(
        mamba2.QuantMamba2, "step", lambda self, x, state=None: (right(self, x[:, None])[0][:, 0], state)
    )
    status, run = status_of(row.settings_are_what_they_say, tmp_path)
    assert status == "failed"
    assert not run.checks[2].ok


def test_a_quantizer_that_does_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        quamba2.QuantMamba2, "freeze", lambda self: [setattr(p, "calibrating", True) for p in self.points.values()]
    )
    status, _ = status_of(row.settings_are_what_they_say, tmp_path)
    assert status == "failed"


def test_eight_bits_in_fours_place_miss_the_size(tmp_path, monkeypatch):
    right = quamba2.expected_bytes
    monkeypatch.setattr(quamba2, "expected_bytes", lambda model, bits: right(model, 8))
    assert status_of(row.sizes_shrink, tmp_path)[0] == "failed"


def test_a_quantizer_that_loses_the_weights_fails(tmp_path, monkeypatch):
    def lost(model, *a, **k):
        return Mamba2LM(256, 32, 1, state_size=8, head_size=16, generator=torch.Generator().manual_seed(1)).eval()

    monkeypatch.setattr(quamba2, "quantize", lost)
    monkeypatch.setattr(row, "VARIANTS", {name: row.VARIANTS[name] for name in (*row.BOUNDS, "W4A8, naive")})
    status, run = status_of(row.perplexity_stays, tmp_path, steps=20, channels=32, seeds=1)
    assert status == "failed"
    assert not any(check.ok for check in run.checks[:3])


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(row.experiment, tmp_path)
    assert status == "ok", [c.claim for c in run.checks if not c.ok]
