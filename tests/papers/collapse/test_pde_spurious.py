import torch

from gramian.analysis.metrics import groups as metrics
from gramian.data.synthetic.shortcuts import patches
from gramian.optim.strategies import expansion
from gramian.papers.collapse import pde_spurious
from support import status_of

Right = expansion.ProgressiveExpansion


def fails(run, status, *parts):
    claims = [c.claim for c in run.checks if not c.ok]
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in claims), (part, claims)


class Everything(Right):
    """All samples from the first epoch on."""

    def used(self, epoch):
        return len(self.order)


class WithReplacement(Right):
    """The balanced subset, then samples that may come twice."""

    def rows(self, epoch):
        rows = super().rows(epoch)
        return torch.cat((rows[: self.balanced], rows[: len(rows) - self.balanced]))


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(pde_spurious.experiment, tmp_path)
    assert status == "ok", [c.as_dict() for c in run.checks if not c.ok]


def test_a_schedule_without_balance_or_that_repeats_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(expansion, "ProgressiveExpansion", Everything)
    status, run = status_of(pde_spurious.schedule_is_exact, tmp_path / "everything")
    fails(run, status, "balanced stage", "start, interval and addition")
    monkeypatch.setattr(expansion, "ProgressiveExpansion", WithReplacement)
    status, run = status_of(pde_spurious.schedule_is_exact, tmp_path / "twice")
    fails(run, status, "seen twice")


def test_training_on_everything_under_the_name_of_expansion_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(expansion, "ProgressiveExpansion", Everything)
    status, run = status_of(pde_spurious.tagged_digits, tmp_path, seeds=1, plan=(6, 2, 10, 2))
    fails(run, status, "progressive less all data")


def test_networks_that_saw_all_patches_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(expansion, "ProgressiveExpansion", Everything)
    status, run = status_of(pde_spurious.networks_on_patches, tmp_path, samples=800, plan=(250, 10, 1))
    fails(run, status, "progressive: worst group", "progressive: largest product")


def test_a_mean_in_the_place_of_the_worst_group_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        metrics, "worst_group", lambda right, groups: metrics.WorstGroup(0, float(right.float().mean()))
    )
    status, run = status_of(pde_spurious.networks_on_patches, tmp_path, samples=800, plan=(50, 10, 1))
    fails(run, status, "all data at once: worst group")


def test_patches_without_a_core_or_in_order_fail(tmp_path, monkeypatch):
    sample = patches.SpuriousPatches.sample

    def sorted_patches(self, samples, generator=None):
        x, label, groups = sample(self, samples, generator)
        order = x.norm(dim=2).argsort(1)
        return x.gather(1, order[:, :, None].expand_as(x)), label, groups

    def no_core(self, samples, generator=None):
        x, label, groups = sample(self, samples, generator)
        return x - (x @ self.core_vector)[..., None] * self.core_vector, label, groups

    for name, stub, part in (("sorted", sorted_patches, "place"), ("no core", no_core, "without the core")):
        monkeypatch.setattr(patches.SpuriousPatches, "sample", stub)
        status, run = status_of(pde_spurious.patches_are_as_asked, tmp_path / name, samples=500)
        fails(run, status, part)
