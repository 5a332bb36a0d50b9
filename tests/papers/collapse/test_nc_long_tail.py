import torch

from gramian.objectives import collapse
from gramian.papers.collapse import nc_long_tail
from support import status_of


def fails(run, status, *parts):
    claims = [c.claim for c in run.checks if not c.ok]
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in claims), (part, claims)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(nc_long_tail.experiment, tmp_path)
    assert status == "ok", [c.as_dict() for c in run.checks if not c.ok]


def test_a_push_that_pulls_or_does_nothing_fails(tmp_path, monkeypatch):
    right = collapse.min_angle
    for name, stub in (("pulls", lambda means: -right(means)), ("nothing", lambda means: 0 * means.sum())):
        monkeypatch.setattr(collapse, "min_angle", stub)
        status, run = status_of(nc_long_tail.simplex_is_the_optimum, tmp_path / name, steps=50)
        fails(run, status, "angle term alone")
        status, run = status_of(nc_long_tail.gradients_are_right, tmp_path / name)
        fails(run, status, "from π/3")


def test_angles_by_arccos_have_infinite_gradients(tmp_path, monkeypatch):
    def arccos(means):
        unit = torch.nn.functional.normalize(means - means.mean(0), dim=1)
        cosines = (unit @ unit.mT).masked_fill(torch.eye(len(unit), dtype=torch.bool), -1.0)
        return -cosines.amax(1).clamp(-1, 1).arccos().mean()

    monkeypatch.setattr(collapse, "min_angle", arccos)
    status, run = status_of(nc_long_tail.gradients_are_right, tmp_path)
    fails(run, status, "not finite")


def test_a_pull_in_which_frequent_classes_count_more_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(collapse, "within_class", lambda h, y, means: (h - means[y]).square().sum(1).mean())
    status, run = status_of(nc_long_tail.gradients_are_right, tmp_path)
    fails(run, status, "pull")


def test_a_regularizer_that_does_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(collapse.NCRegularizer, "forward",
                        lambda self, h, y: collapse.CollapseTerms(*(0 * h.sum() for _ in range(3))))  # fmt: skip
    status, run = status_of(nc_long_tail.digits_collapse, tmp_path, seeds=1, steps=150, losses=("plain",))
    fails(run, status, "angles, regularized", "within/between, regularized")
