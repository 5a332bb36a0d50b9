"""The surveys' taxonomies: what is opened must run; stubs in its place fail."""

import pytest
import torch
from torch import nn

import support
from gramian.lab import taxonomy
from gramian.papers.state import mamba_medical_survey, ssm_medical_survey, visual_mamba_survey

SURVEYS = (visual_mamba_survey, ssm_medical_survey, mamba_medical_survey)


@pytest.mark.parametrize("survey", SURVEYS, ids=lambda s: s.CARD.slug or str(s.CARD.row))
def test_quick_ends_ok(survey, tmp_path):
    status, run = support.status_of(survey.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]


def test_eight_leaves_and_more_open_over_the_three():
    made = {leaf for survey in SURVEYS for _, leaf in taxonomy.leaves(survey.TAXONOMY) if leaf}
    assert len(made) > 15
    for survey in SURVEYS:
        taxonomy.check_taxonomy(survey.TAXONOMY)


class Passing(nn.Module):
    """Hands its input on, whole or a step at a time."""

    def __init__(self, *sizes, **settings):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, state=None):
        return self.scale * x, state

    def step(self, x, state=None):
        return self.scale * x, state


class Averaging(Passing):
    """Answers with the mean over the sequence: sees what comes later."""

    def forward(self, x, state=None):
        return self.scale * (x + x.mean(1, keepdim=True)), state


def failing(function, tmp_path):
    status, run = support.status_of(function, tmp_path)
    assert status == "failed"
    return [c.claim for c in run.checks if not c.ok]


def test_mixers_that_do_not_mix_or_look_ahead_fail(tmp_path, monkeypatch):
    for stub, words in ((Passing, "slope of the last output"), (Averaging, "before the change")):
        monkeypatch.setattr(ssm_medical_survey.taxonomy, "open_leaf", lambda *a, stub=stub, **k: stub())
        failed = failing(ssm_medical_survey.mixers_are_causal_and_step, tmp_path / stub.__name__)
        assert any(words in claim for claim in failed), failed


def test_row_by_row_in_place_of_every_order_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(visual_mamba_survey.scan_orders, "scan_order", lambda n, h, w: torch.arange(h * w)[None])
    failed = failing(visual_mamba_survey.orders_are_permutations, tmp_path)
    assert any("longest step" in claim for claim in failed)


def test_one_scan_instead_of_four_has_no_symmetry(tmp_path, monkeypatch):
    from gramian.nn.state import over_grid

    real = over_grid.OverGrid
    monkeypatch.setattr(visual_mamba_survey.over_grid, "OverGrid", lambda layers, order: real(layers, "raster"))
    failed = failing(visual_mamba_survey.cross_scan_has_symmetries, tmp_path)
    assert any("turned or transposed" in claim for claim in failed)


def test_a_scan_that_passes_its_input_on_is_not_the_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(mamba_medical_survey.selective, "selective_scan", lambda u, *a, **k: u)
    failed = failing(mamba_medical_survey.cores_are_one_family, tmp_path)
    assert any(claim.startswith("S6 with constant") for claim in failed)
