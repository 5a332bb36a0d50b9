import torch

from gramian.analysis.explain import bilrp
from gramian.papers.explanation import bilrp_transformers
from support import status_of

TEXT = bilrp.bilrp_text


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def plain_gradient(encoder, ids, other, **options):
    return TEXT(encoder, ids, other, **{**options, "method": "gradient"})


def test_input_times_gradient_does_not_conserve(tmp_path, monkeypatch):
    monkeypatch.setattr(bilrp, "bilrp_text", plain_gradient)
    status, run = status_of(bilrp_transformers.conserves, tmp_path)
    assert status == "failed"
    assert sum("against the similarity" in c for c in false_claims(run)) == 2


def test_a_table_of_equal_shares_fails(tmp_path, monkeypatch):
    def even(encoder, ids, other, *, level="token", **options):
        found = TEXT(encoder, ids, other, level=level, **options)
        left, right = torch.ones(found.left.shape), torch.ones(found.right.shape)
        left[:, 0] = 2
        return bilrp.BiRelevance(left * found.similarity / len(left) / left[0].sum(), right / right.shape[1],
                                 found.similarity)  # fmt: skip

    monkeypatch.setattr(bilrp, "bilrp_text", even)
    status, run = status_of(bilrp_transformers.conserves, tmp_path / "a")
    assert status == "failed"
    assert any("transpose" in c for c in false_claims(run))
    status, run = status_of(bilrp_transformers.on_sentences, tmp_path / "b", pairs=1, draws=6)
    assert status == "failed"
    for claim in ("strongest pairs", "over random"):
        assert any(claim in c for c in false_claims(run)), claim


def test_input_times_gradient_fails_on_sentences(tmp_path, monkeypatch):
    monkeypatch.setattr(bilrp, "bilrp_text", plain_gradient)
    status, run = status_of(bilrp_transformers.on_sentences, tmp_path, pairs=1, draws=2)
    assert status == "failed"
    assert any("least" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(bilrp_transformers.experiment, tmp_path)
    assert status == "ok", false_claims(run)
