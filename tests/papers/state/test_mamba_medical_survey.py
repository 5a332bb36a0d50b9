"""The survey of Mamba architectures: the bridge between cores; stubs in its place fail."""

import support
from gramian.lab import taxonomy
from gramian.papers.state import mamba_medical_survey as paper


def test_quick_ends_ok(tmp_path):
    status, run = support.status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]


def test_the_taxonomy_is_one(tmp_path):
    taxonomy.check_taxonomy(paper.TAXONOMY)
    assert sum(leaf is not None for _, leaf in taxonomy.leaves(paper.TAXONOMY)) >= 10


def test_a_scan_that_passes_its_input_on_is_not_the_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(paper.selective, "selective_scan", lambda u, *a, **k: u)
    assert any(
        claim.startswith("S6 with constant") for claim in support.failed_claims(paper.cores_are_one_family, tmp_path)
    )


def test_leaves_that_open_anything_fail(tmp_path, monkeypatch):
    real = paper.taxonomy.open_leaf
    wrong = lambda tree, *path, **k: real(tree, *(("scans", "cross") if path[0] == "scans" else path), **k)  # noqa: E731
    monkeypatch.setattr(paper.taxonomy, "open_leaf", wrong)
    assert any("of those that are built" in claim for claim in support.failed_claims(paper.leaves_open, tmp_path))
