from gramian.analysis.kernels import relu_ntk
from gramian.analysis.shortcut import reliance
from gramian.data.synthetic.shortcuts import latents
from gramian.papers.collapse import shortcut_foundations
from support import status_of


def fails(run, status, *parts):
    claims = [c.claim for c in run.checks if not c.ok]
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in claims), (part, claims)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(shortcut_foundations.experiment, tmp_path)
    assert status == "ok", [c.as_dict() for c in run.checks if not c.ok]


def test_a_linear_kernel_in_the_place_of_the_tangent_kernel_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(relu_ntk, "relu_ntk", lambda x, y, depth=1: x @ y.mT)
    status, run = status_of(shortcut_foundations.kernel_is_the_limit, tmp_path / "limit")
    fails(run, status, "tangent kernel against")
    status, run = status_of(shortcut_foundations.kernels_lean, tmp_path / "lean", seeds=1, samples=300)
    fails(run, status, "less linear kernel under the same ridge")


def test_a_measure_that_is_always_zero_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(reliance, "reliance", lambda scores, z: 0.0)
    status, run = status_of(shortcut_foundations.least_squares_does_not_care, tmp_path / "linear", samples=500)
    fails(run, status, "only the shortcut", "only the core")
    status, run = status_of(shortcut_foundations.kernels_lean, tmp_path / "lean", seeds=1, samples=300)
    fails(run, status, "tangent kernel, least over draws", "equally predictive")


def test_data_without_amplification_or_predictivity_fail(tmp_path, monkeypatch):
    right = latents.ShortcutTask.embed

    def quiet(self, z):
        self.amplification = 1.0
        return right(self, z)

    monkeypatch.setattr(latents.ShortcutTask, "embed", quiet)
    status, run = status_of(shortcut_foundations.kernels_lean, tmp_path / "quiet", seeds=1, samples=300)
    fails(run, status, "tangent kernel, least over draws", "linear kernel under a ridge ten times")
    monkeypatch.undo()
    monkeypatch.setattr(latents.ShortcutTask, "embed", lambda self, z: right(self, z.tanh()))
    status, run = status_of(shortcut_foundations.features_are_as_asked, tmp_path / "squeezed", samples=500)
    fails(run, status, "distances")
    monkeypatch.undo()
    sample = latents.ShortcutTask.sample

    def other_labels(self, samples, generator=None):
        x, _, z = sample(self, samples, generator)
        return x, x[:, 0].sign(), z

    monkeypatch.setattr(latents.ShortcutTask, "sample", other_labels)
    status, run = status_of(shortcut_foundations.features_are_as_asked, tmp_path / "labels", samples=500)
    fails(run, status, "predictivities")
