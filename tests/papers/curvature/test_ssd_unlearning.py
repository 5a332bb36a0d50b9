import pytest
import torch

from gramian.papers.curvature import ssd_unlearning as paper
from gramian.surgery import unlearn
from support import status_of


def nothing(model, forget, full, alpha=10.0, dampening=1.0, **_):
    return unlearn.DampeningReport(alpha=3.0, selected={"a": 0}, sizes={"a": 1})


def everything(model, forget, full, alpha=10.0, dampening=1.0, **_):
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return unlearn.DampeningReport(alpha=3.0, selected={"a": 1}, sizes={"a": 1})


@pytest.mark.parametrize("stub", [nothing, everything])
def test_a_stub_of_the_method_fails(stub, monkeypatch, tmp_path):
    monkeypatch.setattr(unlearn, "ssd", stub)
    status, run = status_of(paper.formula_by_loop, tmp_path)
    assert status == "failed"
    assert not run.checks[0].ok
    status, run = status_of(paper.forgets_a_class, tmp_path, seeds=1)
    assert status == "failed"
    assert [c.ok for c in run.checks][:3] == [True, False, False] if stub is nothing else not run.checks[3].ok


def test_squared_batch_gradients_in_the_fishers_place_fail(monkeypatch, tmp_path):
    real = unlearn.total_fisher
    monkeypatch.setattr(unlearn, "total_fisher", lambda m, b, **o: real(m, b, gradients="batch", **o))
    status, run = status_of(paper.formula_by_loop, tmp_path)
    assert status == "failed"
    assert not run.checks[1].ok


def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
