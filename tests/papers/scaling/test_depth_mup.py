import torch

from gramian.nn import residual
from gramian.optim.parametrization import depth
from gramian.papers.scaling import depth_mup
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_no_rule_in_its_place_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(depth, "depth_powers", lambda alpha=0.5, optimizer="adam": (0.0, 0.0))
    status, run = status_of(depth_mup.groups_are_exact, tmp_path)
    assert status == "failed"
    assert any("table" in c for c in false_claims(run))
    status, run = status_of(depth_mup.size_does_not_depend_on_depth, tmp_path, depths=(2, 16))
    assert status == "failed"
    assert any("α = 1/2: size" in c for c in false_claims(run))


def test_a_multiplier_of_one_over_depth_is_not_the_rule(tmp_path, monkeypatch):
    rule = depth.depth_powers
    monkeypatch.setattr(depth, "depth_powers", lambda alpha=0.5, optimizer="adam": rule(2 * alpha, optimizer))
    status, run = status_of(depth_mup.groups_are_exact, tmp_path)
    assert status == "failed"
    assert any("table" in c for c in false_claims(run))


def test_a_measure_that_always_says_half_fails(tmp_path, monkeypatch):
    for answer in (0.5, 1.0):
        monkeypatch.setattr(depth, "diversity_exponent", lambda states, answer=answer: answer)
        status, run = status_of(depth_mup.blocks_differ, tmp_path / str(answer), depth_of=16)
        assert status == "failed"
        assert any("κ" in c for c in false_claims(run))


def test_blocks_without_a_branch_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(residual.ResidualBlock, "forward", lambda self, x: x)
    status, run = status_of(depth_mup.size_does_not_depend_on_depth, tmp_path, depths=(4, 8))
    assert status == "failed"
    assert any("α = 0" in c for c in false_claims(run))


def test_activations_with_a_mean_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(residual.Centred, "forward", lambda self, h: torch.relu(h))
    status, run = status_of(depth_mup.blocks_differ, tmp_path, depth_of=64)
    assert status == "failed"
    assert false_claims(run)


def test_silence_about_deep_blocks_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(depth.warnings, "warn", lambda *args, **settings: None)
    status, run = status_of(depth_mup.deep_blocks_warn, tmp_path)
    assert status == "failed"
    assert any("warnings" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(depth_mup.experiment, tmp_path)
    assert status == "ok", false_claims(run)
