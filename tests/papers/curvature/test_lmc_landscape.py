import copy

from gramian.analysis import connectivity
from gramian.papers.curvature import lmc_landscape
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_a_line_that_stays_where_it_is_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(connectivity, "interpolate", lambda a, b, t, calibration=None: copy.deepcopy(a))
    status, run = status_of(lmc_landscape.two_mirrored_minima, tmp_path)
    assert status == "failed"
    assert any("closed form" in c for c in false_claims(run))


def test_no_curvature_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(connectivity, "barrier_identity", lambda a, b, loss, batch, nodes=20: 0.0)
    status, run = status_of(lmc_landscape.identity_is_exact, tmp_path)
    assert status == "failed"
    assert any("integral of curvature" in c for c in false_claims(run))


def test_units_that_stay_shuffled_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(connectivity, "align_hidden_units", lambda a, b, **settings: copy.deepcopy(b))
    status, run = status_of(lmc_landscape.matching_undoes_permutations, tmp_path)
    assert status == "failed"
    assert any("matching removes" in c for c in false_claims(run))


def test_splits_that_share_nothing_fail(tmp_path, monkeypatch):
    def apart(train, model, splits, epochs):
        pairs = {}
        for split in splits:
            pairs[split] = (lmc_landscape._network(50 + split), lmc_landscape._network(70 + split))
            for k, child in enumerate(pairs[split]):
                train(child, k, 3)
        return pairs

    monkeypatch.setattr(connectivity, "split_experiment", apart)
    status, run = status_of(lmc_landscape.splits_decide, tmp_path, epochs=3)
    assert status == "failed"
    assert any("shared for an epoch" in c for c in false_claims(run))


def test_a_predictor_that_knows_only_distance_fails(tmp_path, monkeypatch):
    def distance(a, b, loss, batch, layers=("",), nodes=3):
        ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
        return {
            layer: -float(sum((ours[n] - theirs[n]).square().sum() for n in ours if n.startswith(layer)).detach())
            for layer in layers
        }

    monkeypatch.setattr(connectivity, "predicted_barrier", distance)
    status, run = status_of(lmc_landscape.layers_are_predicted, tmp_path, seeds=1, splits=(0,), epochs=2)
    assert status == "failed"
    assert any("relative error" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(lmc_landscape.experiment, tmp_path)
    assert status == "ok", false_claims(run)
