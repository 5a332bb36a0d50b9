import pytest
import torch

from gramian.analysis.metrics import text as metrics
from gramian.data import ngrams
from gramian.models.language import tiny_t5 as t5
from gramian.objectives import gsg
from gramian.optim import continual
from gramian.papers.curvature import cstrl as paper
from support import status_of


def wrong(run):
    return [i for i, c in enumerate(run.checks) if not c.ok]


def test_no_anchor_and_an_unweighted_one_fail(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(continual.FisherAnchor, "__call__", lambda self, model, time=0: 0 * self.distance(model))
        status, run = status_of(paper.penalty_is_the_formula, tmp_path)
        assert (status, wrong(run)) == ("failed", [0, 1])
        status, run = status_of(paper.held_on_digits, tmp_path, steps=40)
        assert status == "failed"
        assert {0, 2} <= set(wrong(run))
    whole = continual.FisherAnchor.__init__

    def unweighted(self, fisher, theta0, schedule=1.0):
        whole(self, {n: torch.ones_like(f) for n, f in fisher.items()}, theta0, schedule)

    monkeypatch.setattr(continual.FisherAnchor, "__init__", unweighted)
    status, run = status_of(paper.penalty_is_the_formula, tmp_path)
    assert (status, wrong(run)) == ("failed", [0, 1])


def test_a_strength_that_is_logged_but_does_not_decay_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(continual, "decaying", lambda initial, floor, total: lambda time: initial)
    status, run = status_of(paper.penalty_is_the_formula, tmp_path)
    assert (status, wrong(run)) == ("failed", [0])
    status, run = status_of(paper.held_on_digits, tmp_path)
    assert (status, wrong(run)) == ("failed", [2])


def test_other_metrics_fail(monkeypatch, tmp_path):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    whole = metrics.bleu
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "bleu", lambda written, wanted, n=4: whole(written, wanted, 1))
        status, run = status_of(paper.metrics_agree, tmp_path)
        assert (status, wrong(run)) == ("failed", [1])
    monkeypatch.setattr(metrics, "rouge", lambda w, r, n=1: ngrams.Overlap(*3 * [float(w == r)]))
    status, run = status_of(paper.metrics_agree, tmp_path)
    assert (status, wrong(run)) == ("failed", [0, 1])


def test_hiding_the_first_sentence_fails(monkeypatch, tmp_path):
    def first(text, ratio=0.3, **more):
        sentences = ngrams.sentences_of(text)
        return gsg.GapSentences(" ".join(["<mask>", *sentences[1:]]), sentences[0], (0,), (0.0,) * len(sentences))

    monkeypatch.setattr(gsg, "gap_sentences", first)
    status, run = status_of(paper.gaps_hold_what_matters, tmp_path)
    assert (status, wrong(run)) == ("failed", [0, 1])


def test_a_summarizers_parts_fit_together():
    pytest.importorskip("transformers")
    found = paper.summarizer(0, stage_one=2, stage_two=2, labelled=8, unlabelled=300)
    assert {n.split(":")[0] for n in found} >= {"stage 2 alone", "both stages", "both, anchored"}
    assert all(0 <= found[n] <= 1 for n in found if "ROUGE" in n or "BLEU" in n)
    vocabulary = t5.Vocabulary(["a b"])
    model = t5.tiny_t5(len(vocabulary), width=16, depth=1)
    fisher = paper._fisher(model, t5.pairs(vocabulary, ["a", "b"], ["b", "a b"]))
    assert set(fisher) == {n for n, _ in model.named_parameters()}
    assert all(float(f.sum()) >= 0 for f in fisher.values())
    assert float(fisher["shared.weight"].sum()) > 0


def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
