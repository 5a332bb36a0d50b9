import torch

from gramian.analysis import activity
from gramian.papers.sparsity import ap_activate as paper
from gramian.surgery.prune import activating, iterative, scores
from support import status_of


def wrong(run):
    return [i for i, c in enumerate(run.checks) if not c.ok]


def smallest(self, model, masks, count, start):
    """What magnitude pruning alone would do."""
    return iterative.choose(scores.magnitude(model), 0.0, masks=masks, count=count)


def test_taking_the_smallest_weights_in_its_place_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(activating.ActivatingWhilePruning, "choose", smallest)
    status, run = status_of(paper.activations_rise, tmp_path)
    assert (status, wrong(run)) == ("failed", [0, 1, 2])
    status, run = status_of(paper.units_stay_awake, tmp_path, cycles=1, steps=40, seeds=1, partners=("without", "AP"))
    assert status == "failed"
    assert 1 in wrong(run)


def test_counting_no_dead_units_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(activity, "dead_rate", lambda model, batches, dynamic=True: 0.0)
    status, run = status_of(paper.rates_by_hand, tmp_path)
    assert (status, wrong(run)) == ("failed", [0, 1])


def test_scores_that_forget_the_dead_rate_fail(monkeypatch, tmp_path):
    def by_size(model, batches, masks):
        return {n: -model.get_parameter(n).detach() for n in masks}

    monkeypatch.setattr(activating, "activating_scores", by_size)
    status, run = status_of(paper.rates_by_hand, tmp_path)
    assert (status, wrong(run)) == ("failed", [2])


def test_a_partner_that_takes_nothing_or_weights_that_regrow_fail(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(activating.ActivatingWhilePruning, "choose", lambda self, model, masks, count, start: masks)
        status, run = status_of(paper.budget_is_shared, tmp_path)
        assert status == "failed"
        assert {0, 3} <= set(wrong(run))
    with monkeypatch.context() as patch:
        patch.setattr(iterative, "apply_masks", lambda model, masks: None)
        status, run = status_of(paper.budget_is_shared, tmp_path)
        assert status == "failed"
        assert 2 in wrong(run)
    real = iterative.choose

    def forgetful(scores, share, *, scope="global", masks=None, count=None):
        """Chooses among all weights, the removed ones too: some come back."""
        stand = sum(int(m.sum()) for m in masks.values())
        whole = {n: torch.ones_like(m) for n, m in masks.items()}
        size = sum(m.numel() for m in masks.values())
        if bool(torch.isinf(torch.cat([s.flatten() for s in scores.values()])).any()):
            return real(scores, share, scope=scope, masks=masks, count=count)
        noise = torch.Generator().manual_seed(stand)
        mixed = {n: torch.rand(s.shape, generator=noise) for n, s in scores.items()}
        return real(mixed, 0.0, masks=whole, count=size - stand + (count or 0))

    monkeypatch.setattr(iterative, "choose", forgetful)
    status, run = status_of(paper.budget_is_shared, tmp_path)
    assert status == "failed"
    assert 1 in wrong(run)


def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
