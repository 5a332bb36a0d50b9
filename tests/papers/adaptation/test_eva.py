"""Row 78's checks fail when the method is not there."""

import pytest
import torch

from gramian.linalg.factor import streaming_svd
from gramian.papers.adaptation import eva as paper
from gramian.surgery.adapters import eva, lora
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_a_stream_that_keeps_only_its_last_batch_fails(tmp_path, monkeypatch):
    take = streaming_svd.StreamingSVD._take

    def forgetful(self, rows, mean, count, energy):
        self.count, self._energy = 0, 0.0
        take(self, rows, mean, count, energy)

    monkeypatch.setattr(streaming_svd.StreamingSVD, "_take", forgetful)
    status, run = status_of(paper.streams_agree_with_the_whole, tmp_path)
    assert status == "failed"
    assert sum("angle" in claim for claim in false_claims(run)) == 4


def test_equal_ranks_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(eva, "share_ranks", lambda ratios, budget: dict.fromkeys(ratios, budget // len(ratios)))
    status, run = status_of(paper.ranks_follow_the_variance, tmp_path)
    assert status == "failed"
    assert any("sort's" in claim for claim in false_claims(run))


def test_random_directions_fail(tmp_path, monkeypatch):
    """LoRA's orthonormal start in place of the explained directions."""
    real = eva.explain_inputs

    def random(model, pattern, batches, rank=8, **options):
        found = real(model, pattern, batches, rank, **options)
        generator = torch.Generator().manual_seed(0)
        for kept in found.components.values():
            if len(kept):
                kept.copy_(lora.draw("orthonormal", *kept.shape, generator))
        return found

    monkeypatch.setattr(eva, "explain_inputs", random)
    status, run = status_of(paper.ranks_follow_the_variance, tmp_path)
    assert status == "failed"
    assert any("principal components" in claim for claim in false_claims(run))
    status, run = status_of(paper.starts_faster, tmp_path, seeds=1)
    assert status == "failed"


def test_a_start_that_is_not_the_base_fails(tmp_path, monkeypatch):
    attach = eva.attach_eva

    def moved(model, explained, **settings):
        attached = attach(model, explained, **settings)
        with torch.no_grad():
            attached[attached.names[0]].B.fill_(1e-3)
        return attached

    monkeypatch.setattr(eva, "attach_eva", moved)
    status, run = status_of(paper.ranks_follow_the_variance, tmp_path)
    assert status == "failed"
    assert false_claims(run) == ["outputs at the start whose bits differ from the base's"]


@pytest.mark.slow
def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [(c.claim, c.measured) for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
