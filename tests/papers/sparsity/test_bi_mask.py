import pytest
import torch

from gramian.linalg.factor import sparse_nm
from gramian.nn.sparse import bi_mask
from gramian.papers.sparsity import bi_mask as paper
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def first_of_each(w, kept, group, dim=1):
    lines = torch.zeros_like(w if dim == 1 else w.T, dtype=torch.bool).contiguous()
    lines.view(-1, group)[:, :kept] = True
    return lines if dim == 1 else lines.T


def test_masks_that_ignore_magnitudes_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(sparse_nm, "nm_mask", first_of_each)
    status, run = status_of(paper.masks_keep_the_pattern, tmp_path)
    assert status == "failed"
    assert any("largest magnitudes" in c for c in false_claims(run))


def test_a_backward_mask_that_is_not_put_back_in_order_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sparse_nm,
        "backward_mask",
        lambda masked, kept, group, permutation=None: sparse_nm.nm_mask(masked[permutation], kept, group, 0),
    )
    status, run = status_of(paper.masks_keep_the_pattern, tmp_path)
    assert status == "failed"
    assert any("permuting" in c for c in false_claims(run))


def test_the_order_as_it_is_fails(tmp_path, monkeypatch):
    real = sparse_nm.best_permutation
    monkeypatch.setattr(
        sparse_nm,
        "best_permutation",
        lambda w, kept, group, candidates, generator=None: real(w, kept, group, 1, generator),
    )
    status, run = status_of(paper.what_an_order_retains, tmp_path)
    assert status == "failed"
    assert false_claims(run) == ["best of 100 orders: gain over the mean, least of the patterns"]


def test_one_mask_for_both_directions_fails(tmp_path, monkeypatch):
    real = bi_mask._BiMask.masks
    monkeypatch.setattr(bi_mask._BiMask, "masks", lambda self: (real(self)[0], real(self)[0]))
    status, run = status_of(paper.gradients_use_both_masks, tmp_path)
    assert status == "failed"
    assert ["gradient of inputs" in c for c in false_claims(run)] == [True]


def test_a_transposable_mask_that_fits_one_way_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(sparse_nm, "transposable_mask", sparse_nm.nm_mask)
    status, run = status_of(paper.masks_keep_the_pattern, tmp_path)
    assert status == "failed"
    assert ["transposable" in c for c in false_claims(run)] == [True]


@pytest.mark.slow
def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
