"""The medical survey: its mixers must mix and step; stubs in their place fail."""

import torch
from torch import nn

import support
from gramian.lab import taxonomy
from gramian.papers.state import ssm_medical_survey as paper


def test_quick_ends_ok(tmp_path):
    status, run = support.status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]


def test_the_taxonomy_is_one(tmp_path):
    taxonomy.check_taxonomy(paper.TAXONOMY)
    assert sum(leaf is not None for _, leaf in taxonomy.leaves(paper.TAXONOMY)) >= 9


class Passing(nn.Module):
    """Hands its input on, whole or a step at a time."""

    def __init__(self):
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


def test_mixers_that_do_not_mix_or_look_ahead_fail(tmp_path, monkeypatch):
    for stub, words in ((Passing, "slope of the last output"), (Averaging, "before the change")):
        monkeypatch.setattr(paper.taxonomy, "open_leaf", lambda *a, stub=stub, **k: stub())
        failed = support.failed_claims(paper.mixers_are_causal_and_step, tmp_path / stub.__name__)
        assert any(words in claim for claim in failed), failed
