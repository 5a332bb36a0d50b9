import copy

import torch

from gramian.papers.activation import feature_complexity_ifm as paper
from gramian.surgery import merge_features
from gramian.surgery.prune import channels
from support import status_of


def fails(run, status, *parts):
    assert status == "failed"
    false = [c.claim for c in run.checks if not c.ok]
    for part in parts:
        assert any(part in claim for claim in false), (part, false)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [(c.claim, c.measured) for c in run.checks if not c.ok]


def test_a_merging_that_does_nothing_fails(tmp_path, monkeypatch):
    def idle(model, beta, max_ratio=1.0, groups=None):
        groups = channels.channel_groups(model) if groups is None else groups
        sizes = {g.name: g.size for g in groups}
        count = sum(p.numel() for p in model.parameters())
        clusters = {g.name: [[c] for c in range(g.size)] for g in groups}
        return copy.deepcopy(model), merge_features.MergeReport(sizes, dict(sizes), clusters, (count, count))

    monkeypatch.setattr(merge_features, "iterative_merge", idle)
    status, run = status_of(paper.planted_copies, tmp_path)
    fails(run, status, "original widths")
    status, run = status_of(paper.closest_pair, tmp_path)
    fails(run, status, "closest of all pairs")
    status, run = status_of(paper.digits_merge, tmp_path, steps=30)
    fails(run, status, "first hidden layer", "second hidden layer", "random pruning")


def test_readers_that_are_not_summed_fail(tmp_path, monkeypatch):
    class Forgetful(merge_features._Weights):
        def merge(self, group, i, j):
            for member in group.members:
                if member.role == "reads":
                    self.tensors[member.name].select(member.axis, j).zero_()
            super().merge(group, i, j)

    monkeypatch.setattr(merge_features, "_Weights", Forgetful)
    status, run = status_of(paper.planted_copies, tmp_path)
    fails(run, status, "relative change")


def test_pairs_drawn_at_random_fail(tmp_path, monkeypatch):
    def drawn(distances, beta):
        i, j = torch.randperm(len(distances), generator=torch.Generator().manual_seed(len(distances)))[:2].tolist()
        largest = distances.max()
        off = distances + torch.eye(len(distances)) * largest
        return (min(i, j), max(i, j)) if bool(off.min() <= beta * largest) else None

    monkeypatch.setattr(merge_features, "_closest", drawn)
    status, run = status_of(paper.closest_pair, tmp_path)
    fails(run, status, "closest of all pairs")
    status, run = status_of(paper.planted_copies, tmp_path)
    fails(run, status, "relative change")
