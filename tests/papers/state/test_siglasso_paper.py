"""Row 192's checks fail when the method is not there."""

import numpy as np
import torch

from gramian.estimators.series import siglasso as estimators
from gramian.linalg.signal import signature as signatures
from gramian.papers.state import siglasso
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_products_without_order_fail(tmp_path, monkeypatch):
    """Powers of the path's displacement instead of its iterated integrals."""

    def powers(path, depth, stream=False):
        ends = path[:, 1:] - path[:, :1]
        found = [ends]
        for level in range(2, depth + 1):
            found.append((found[-1][..., :, None] * ends[..., None, :]).flatten(-2) / level)
        whole = torch.cat(found, -1)
        return whole if stream else whole[:, -1]

    monkeypatch.setattr(signatures, "signature", powers)
    status, run = status_of(siglasso.integrals_are_exact, tmp_path)
    assert status == "failed"
    assert any("triples" in claim for claim in false_claims(run))
    status, run = status_of(siglasso.functionals_are_recovered, tmp_path)
    assert status == "failed"


def test_a_stream_of_the_last_prefix_fails(tmp_path, monkeypatch):
    plain = signatures.signature

    def last(path, depth, stream=False):
        found = plain(path, depth)
        return found[:, None].expand(-1, path.shape[1] - 1, -1) if stream else found

    monkeypatch.setattr(signatures, "signature", last)
    status, _ = status_of(siglasso.prefixes_at_once, tmp_path)
    assert status == "failed"


def test_a_mean_instead_of_a_regression_fails(tmp_path, monkeypatch):
    plain = estimators.SigLasso.fit

    def constant(self, paths, times, y, y_times):
        plain(self, paths, times, y, y_times)
        self.coefficients_ = np.zeros_like(self.coefficients_)
        return self

    monkeypatch.setattr(estimators.SigLasso, "fit", constant)
    for part in (siglasso.functionals_are_recovered, siglasso.depth_and_sampling):
        status, _ = status_of(part, tmp_path)
        assert status == "failed"


def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(siglasso.experiment, tmp_path)
    assert status == "ok", false_claims(run)
