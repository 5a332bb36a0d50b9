import pytest

from gramian.analysis.fisher import accumulator
from gramian.papers.curvature import fisher_merging as paper
from gramian.surgery.merge import fisher as merge
from support import status_of


def plain(models, fishers, weights=None, **_):
    return merge.isotropic_merge(models, weights)


@pytest.mark.parametrize("part", [paper.shards_of_a_regression, paper.limits])
def test_the_plain_average_in_its_place_fails(part, monkeypatch, tmp_path):
    assert status_of(part, tmp_path)[0] == "ok"
    monkeypatch.setattr(merge, "fisher_merge", plain)
    status, run = status_of(part, tmp_path)
    assert status == "failed"
    assert not all(c.ok for c in run.checks)


def test_the_plain_average_of_experts_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(merge, "fisher_merge", plain)
    status, run = status_of(paper.experts_on_digits, tmp_path, seeds=2)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False]


def test_an_empirical_fisher_in_the_true_ones_place_fails(monkeypatch, tmp_path):
    real = accumulator.FisherAccumulator

    class Empirical(real):
        def __init__(self, model, source="true", **options):
            super().__init__(model)

        def update(self, inputs, targets=None):
            return super().update(inputs, model_labels(self.model, inputs))

    def model_labels(model, inputs):
        return model(inputs).argmax(-1)

    monkeypatch.setattr(accumulator, "FisherAccumulator", Empirical)
    status, run = status_of(paper.true_fisher_of_softmax_regression, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False, False]


def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
