import torch

from gramian.analysis.explain import bilrp as method
from gramian.analysis.explain import relevance
from gramian.papers.explanation import bilrp
from support import status_of

BILRP, SIDE = method.bilrp, method.embedding_relevance


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def even_table(phi, x, other, composite=None, **options):
    """The similarity shared out evenly over one side."""
    found = BILRP(phi, x, other, composite, **options)
    left = torch.zeros_like(found.left)
    left[:, 0] = (found.left @ torch.ones_like(found.left[0])).clamp(min=1e-3)
    return method.BiRelevance(left, found.right.sum(1, keepdim=True).expand_as(found.right) / found.right.shape[1],
                              found.similarity)  # fmt: skip


def test_a_table_that_only_sums_right_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(method, "bilrp", even_table)
    status, run = status_of(bilrp.decomposes, tmp_path)
    assert status == "failed"
    for claim in ("linear map", "second derivative", "transpose"):
        assert any(claim in c for c in false_claims(run)), claim


def test_rules_that_do_nothing_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(method, "bilrp", lambda phi, x, other, composite=None, **o: BILRP(phi, x, other, None, **o))
    monkeypatch.setattr(method, "embedding_relevance", lambda phi, x, composite=None, **o: SIDE(phi, x, None, **o))
    for part, claim in ((bilrp.decomposes, "γ = 0.5 against"), (bilrp.rules_hand_back, "by hand")):
        status, run = status_of(part, tmp_path / part.__name__)
        assert status == "failed"
        assert any(claim in c for c in false_claims(run)), claim


def test_a_rule_with_the_wrong_weights_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(relevance._OF_LAYER, "gamma", relevance._zplus)
    status, run = status_of(bilrp.rules_hand_back, tmp_path)
    assert status == "failed"
    assert false_claims(run)


def test_a_table_that_does_not_look_at_the_tag_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(method, "bilrp", even_table)
    status, run = status_of(bilrp.shows_a_cheat, tmp_path, pairs=2, epochs=1)
    assert status == "failed"
    assert any("cheating" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(bilrp.experiment, tmp_path)
    assert status == "ok", false_claims(run)
