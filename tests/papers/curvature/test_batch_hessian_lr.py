from gramian.linalg.spectral import lanczos, random_matrix
from gramian.optim import autolr, curvature
from gramian.papers.curvature import batch_hessian_lr
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_spikes_that_stay_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(random_matrix, "spiked_eigenvalues", lambda spikes, noise, size: spikes.clone())
    status, run = status_of(batch_hessian_lr.spikes_move_as_predicted, tmp_path, draws=3)
    assert status == "failed"
    assert any("20, 12, 6" in c for c in false_claims(run))


def test_a_wrong_edge_fails(tmp_path, monkeypatch):
    edge = random_matrix.semicircle_edge
    monkeypatch.setattr(random_matrix, "semicircle_edge", lambda noise, size: edge(noise, size) / 2)
    status, run = status_of(batch_hessian_lr.spikes_move_as_predicted, tmp_path, draws=3)
    assert status == "failed"
    assert any("edge of the bulk" in c for c in false_claims(run))


def test_products_with_the_identity_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(curvature.Hessian, "__call__", lambda self, vector: vector.clone())
    monkeypatch.setattr(curvature, "ggn_vp", lambda module, objective, inputs, targets, vector: vector.clone())
    status, run = status_of(batch_hessian_lr.lanczos_is_the_dense_spectrum, tmp_path)
    assert status == "failed"
    assert len(false_claims(run)) == 4


def test_lanczos_of_two_steps_fails(tmp_path, monkeypatch):
    run_lanczos = lanczos.lanczos
    monkeypatch.setattr(lanczos, "lanczos", lambda m, n, k, **settings: run_lanczos(m, n, min(k, 2), **settings))
    status, run = status_of(batch_hessian_lr.lanczos_is_the_dense_spectrum, tmp_path)
    assert status == "failed"
    assert any("extreme" in c for c in false_claims(run))


def test_noise_that_is_not_there_fails(tmp_path, monkeypatch):
    measure = autolr.hessian_noise

    def silent(*arguments, **settings):
        found = measure(*arguments, **settings)
        return autolr.HessianNoise(found.top, 1e-6, found.size, found.samples)

    monkeypatch.setattr(autolr, "hessian_noise", silent)
    status, run = status_of(batch_hessian_lr.curvature_falls_with_the_batch, tmp_path, draws=3)
    assert status == "failed"
    assert any("predicted excess" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(batch_hessian_lr.experiment, tmp_path)
    assert status == "ok", false_claims(run)
