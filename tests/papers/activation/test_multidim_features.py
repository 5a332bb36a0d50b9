import pytest
import torch

from gramian.analysis.explain import circle, multidim
from gramian.papers.activation import multidim_features as paper
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


@pytest.mark.parametrize(("name", "value"), [("separability", 0.0), ("mixture_index", 0.09)])
def test_an_index_that_sees_nothing_fails(name, value, tmp_path, monkeypatch):
    monkeypatch.setattr(multidim, name, lambda points, *a, **k: value)
    status, run = status_of(paper.indices_tell_shapes_apart, tmp_path, samples=4000)
    assert status == "failed"
    assert any(name.split("_")[0] in claim for claim in false_claims(run))


def test_a_mixture_about_the_mean_alone_fails(tmp_path, monkeypatch):
    def centred(points, epsilon=0.1, angles=90, offsets=400):
        return float((points[:, 0].abs() < epsilon * points[:, 0].square().mean().sqrt()).double().mean())

    monkeypatch.setattr(multidim, "mixture_index", centred)
    status, run = status_of(paper.indices_tell_shapes_apart, tmp_path, samples=4000)
    assert status == "failed"
    assert "mixture index of a circle" in false_claims(run)


def test_an_order_that_is_not_looked_up_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        multidim, "circular_order", lambda points: points[:, 0].argsort()
    )  # fmt: skip
    status, run = status_of(paper.calendars_are_circles, tmp_path)
    assert status == "failed"
    assert any("days" in claim for claim in false_claims(run))


@pytest.mark.parametrize("stub", ["nothing", "whole"])
def test_a_turn_of_nothing_or_of_everything_fails(stub, tmp_path, monkeypatch):
    if stub == "nothing":
        monkeypatch.setattr(circle.CircleProbe, "move", lambda self, states, numbers: states)
    else:
        real = circle.CircleProbe.fit

        def fit(self, states, numbers):
            real(self, states, numbers)
            self.table = states
            return self

        monkeypatch.setattr(circle.CircleProbe, "fit", fit)
        monkeypatch.setattr(circle.CircleProbe, "move", lambda self, states, numbers: self.table[numbers])
    status, run = status_of(paper.turning_circles_turns_answers, tmp_path, steps=200)
    assert status == "failed"
    assert any("answers moved" in claim for claim in false_claims(run))


def test_groups_at_random_fail(tmp_path, monkeypatch):
    def random_groups(decoder, *a, **k):
        order = torch.randperm(len(decoder), generator=torch.Generator().manual_seed(0))
        return list(order[: len(order) // 4 * 4].split(4))

    monkeypatch.setattr(multidim, "cluster_decoder", random_groups)
    status, _ = status_of(paper.planted_circles_are_found, tmp_path, samples=3000, steps=150)
    assert status == "failed"


@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
