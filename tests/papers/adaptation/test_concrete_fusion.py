"""Row 60's checks fail when the method is not there."""

import copy

import torch

from gramian.papers.adaptation import concrete_fusion as paper
from gramian.surgery.merge import arithmetic, concrete
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_a_mask_that_ignores_its_logits_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        concrete.ConcreteMask, "sample",
        lambda self, generator=None: {n: torch.rand(x.shape, generator=generator)
                                      for n, x in zip(self.names, self.logits, strict=True)},
    )  # fmt: skip
    status, run = status_of(paper.mask_is_a_relaxed_coin, tmp_path)
    assert status == "failed"
    assert any("draws above" in claim for claim in false_claims(run))
    assert any("+20" in claim for claim in false_claims(run))


def test_a_mask_that_is_not_rescaled_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(concrete.ConcreteMask, "rescaled", lambda self, mask: dict(mask))
    status, run = status_of(paper.mask_is_a_relaxed_coin, tmp_path)
    assert status == "failed"
    assert any("sum of the rescaled" in claim for claim in false_claims(run))


def test_an_inner_step_without_its_gradient_fails(tmp_path, monkeypatch):
    def first_order(lower, scales, rate):
        at = scales.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(lower(at), at)
        return lower(at - rate * gradient.detach()), at.detach()

    monkeypatch.setattr(concrete, "bilevel", first_order)
    status, _ = status_of(paper.bilevel_gradient, tmp_path)
    assert status == "failed"


def test_the_base_in_place_of_the_merges_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(arithmetic, "ties", lambda base, *a, **k: copy.deepcopy(dict(base)))
    monkeypatch.setattr(arithmetic, "task_arithmetic", lambda base, *a, **k: copy.deepcopy(dict(base)))
    status, run = status_of(paper.arithmetic_by_hand, tmp_path)
    assert status == "failed"
    assert len(false_claims(run)) == 2


def test_task_arithmetic_in_the_masks_place_fails(tmp_path, monkeypatch):
    def unmasked(model, experts, batches, scale, **_):
        mask = concrete.ConcreteMask({n: v.shape for n, v in model.state_dict().items()})
        state = arithmetic.task_arithmetic(model, experts, scale)
        return concrete.Concrete(state, mask, torch.full((3,), scale), [0.5])

    monkeypatch.setattr(concrete, "concrete_merge", unmasked)
    status, run = status_of(paper.three_tasks, tmp_path, seeds=1)
    assert status == "failed"
    assert any("best task arithmetic" in claim for claim in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
