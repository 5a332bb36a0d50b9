"""The visual survey: its scan orders must run; stubs in their place fail."""

import torch

import support
from gramian.lab import taxonomy
from gramian.papers.state import visual_mamba_survey as paper


def test_quick_ends_ok(tmp_path):
    status, run = support.status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]


def test_the_taxonomy_is_one(tmp_path):
    taxonomy.check_taxonomy(paper.TAXONOMY)
    assert sum(leaf is not None for _, leaf in taxonomy.leaves(paper.TAXONOMY)) >= 10


def test_row_by_row_in_place_of_every_order_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(paper.scan_orders, "scan_order", lambda n, h, w: torch.arange(h * w)[None])
    assert any("longest step" in claim for claim in support.failed_claims(paper.orders_are_permutations, tmp_path))


def test_one_scan_instead_of_four_has_no_symmetry(tmp_path, monkeypatch):
    real = paper.over_grid.OverGrid
    monkeypatch.setattr(paper.over_grid, "OverGrid", lambda layers, order: real(layers, "raster"))
    assert any(
        "turned or transposed" in claim for claim in support.failed_claims(paper.cross_scan_has_symmetries, tmp_path)
    )
