import torch

from gramian.analysis.explain import facets, maximize
from gramian.papers.explanation import multifaceted_visualization as paper
from support import status_of


def fails(run, status, *parts):
    assert status == "failed"
    false = [c.claim for c in run.checks if not c.ok]
    for part in parts:
        assert any(part in claim for claim in false), (part, false)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c.claim for c in run.checks if not c.ok]


def stays(model, score, start, *, steps=1, rate=1.0, prior=None, generator=None):
    with torch.no_grad():
        values = score(start)
    return maximize.Maximized(start, values, values[None])


def test_an_ascent_that_stays_where_it_begins_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(maximize, "maximize", stays)
    status, run = status_of(paper.finds_the_maximum, tmp_path)
    fails(run, status, "least cosine", "its activation", "total variation")
    status, run = status_of(paper.planted_facets, tmp_path)
    fails(run, status, "least correlation")


def test_an_ascent_without_the_prior_fails(tmp_path, monkeypatch):
    whole = maximize.maximize
    monkeypatch.setattr(
        maximize, "maximize",
        lambda model, score, start, *, prior=None, **rest: whole(
            model, score, start, prior=maximize.Prior(ball=prior.ball), **rest
        ),
    )  # fmt: skip
    status, run = status_of(paper.finds_the_maximum, tmp_path)
    fails(run, status, "total variation")


def test_groups_drawn_at_random_fail(tmp_path, monkeypatch):
    def drawn(codes, k=10, *, closest=15, components=50, seed=0):
        order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))
        labels = torch.arange(len(codes)) % k
        return facets.Facets(torch.zeros(len(codes), 2), labels, tuple(order[: closest * k].chunk(k)))

    monkeypatch.setattr(facets, "facets", drawn)
    status, run = status_of(paper.planted_facets, tmp_path)
    fails(run, status, "templates found by four facets")
