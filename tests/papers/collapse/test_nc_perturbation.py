from gramian.papers.collapse import nc_perturbation
from gramian.science import near_features
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def fails(run, status, *parts):
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in false_claims(run)), (part, false_claims(run))


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(nc_perturbation.experiment, tmp_path)
    assert status == "ok", false_claims(run)


def test_a_flow_away_from_the_means_fails(tmp_path, monkeypatch):
    flow = near_features.NearFeatures._flow
    monkeypatch.setattr(near_features.NearFeatures, "_flow", lambda self, h: -flow(self, h))
    monkeypatch.setattr(near_features.NearFeatures, "flow", lambda self, h: -flow(self, h.double()))
    status, run = status_of(nc_perturbation.variability_falls, tmp_path, steps=30)
    fails(run, status, "tr Σ_W falls", "tr Σ_W / tr Σ_B falls", "at the end over")
    status, run = status_of(nc_perturbation.flow_is_the_gradient, tmp_path)
    fails(run, status, "automatic differentiation")


def test_features_that_stay_where_they_are_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(
        near_features.NearFeatures, "minimize", lambda self, near, **rest: (self.classifier(near), near.double())
    )
    status, run = status_of(nc_perturbation.minimum_is_found, tmp_path)
    fails(run, status, "objective", "largest difference")
    status, run = status_of(nc_perturbation.digits_move_towards_collapse, tmp_path)
    fails(run, status, "moved features over", "least")


def test_a_perturbation_that_passes_unfiltered_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(near_features.NearFeatures, "perturbation", lambda self, minimum, change: change.clone())
    status, run = status_of(nc_perturbation.perturbations_are_filtered, tmp_path)
    fails(run, status, "first-order", "over the change itself", "near collapse")
