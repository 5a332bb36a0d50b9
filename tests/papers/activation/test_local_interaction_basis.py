import torch

import support
from gramian.analysis.explain.interaction_basis import LocalInteractionBasis
from gramian.papers.activation import local_interaction_basis as paper


def test_quick_ends_ok(tmp_path):
    status, run = support.status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]


class Principal(LocalInteractionBasis):
    """Principal components in place of the basis."""

    def fit(self, inputs, chunk=256):
        super().fit(inputs, chunk)
        for name in self.names:
            sizes, axes = self._grams[name]
            self.bases[name], self.sizes[name], self._back[name] = axes, sizes, axes.mT
        return self


class Unscaled(LocalInteractionBasis):
    """The basis without its sizes: every direction of length one."""

    def fit(self, inputs, chunk=256):
        super().fit(inputs, chunk)
        for name in self.names[:-1]:
            root = self.sizes[name].sqrt()
            self.bases[name], self._back[name] = self.bases[name] / root, root[:, None] * self._back[name]
            self.sizes[name] = torch.ones_like(root)
        return self


def test_principal_components_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(paper.interaction_basis, "LocalInteractionBasis", Principal)
    assert any("Gram matrix" in c for c in support.failed_claims(paper.what_defines_it, tmp_path / "a"))
    assert any("up to sign" in c for c in support.failed_claims(paper.parametrization_does_not_matter, tmp_path / "b"))
    assert any("that carry it" in c for c in support.failed_claims(paper.what_nobody_reads_is_dropped, tmp_path / "c"))


def test_directions_of_length_one_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(paper.interaction_basis, "LocalInteractionBasis", Unscaled)
    assert any("Gram matrix" in c for c in support.failed_claims(paper.what_defines_it, tmp_path))
