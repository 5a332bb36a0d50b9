import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian.optim.strategies.expansion import ExpandingBatches, ProgressiveExpansion, fit_expanding


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_balance_growth_and_end(sizes, start, interval, add_num):
    groups = torch.cat([torch.full((n,), 3 * k) for k, n in enumerate(sizes)])
    order = ProgressiveExpansion(groups, start, interval, add_num, generator=generator())
    counts = groups[order.rows(start - 1)].unique(return_counts=True)[1]
    assert counts.tolist() == [min(sizes)] * len(sizes)
    before = None
    for epoch in range(start + 40 * interval):
        rows = order.rows(epoch)
        assert len(rows.unique()) == len(rows)
        if before is not None:
            assert rows[: len(before)].tolist() == before.tolist()
            grown = epoch >= start and (epoch - start) % interval == 0
            assert len(rows) - len(before) == (min(add_num, sum(sizes) - len(before)) if grown else 0)
        before = rows
    assert sorted(order.order.tolist()) == list(range(sum(sizes)))


def test_every_sample_has_its_chance():
    """Over draws, each member of a large group is in the balanced subset as often as any other."""
    groups = torch.tensor([0] * 10 + [1] * 2)
    seen = torch.zeros(12)
    for seed in range(400):
        seen[ProgressiveExpansion(groups, 1, 1, 1, generator=generator(seed)).rows(0)] += 1
    assert seen[10:].tolist() == [400, 400]
    assert float((seen[:10] - 80).abs().max()) < 40


def test_passes_are_epochs_and_shuffled_anew():
    groups = torch.tensor([0] * 20 + [1] * 4)
    order = ProgressiveExpansion(groups, 2, 1, 3, generator=generator())
    batches = ExpandingBatches((torch.arange(24), groups), order, 5, seed=1)
    passes = [torch.cat([rows for rows, _ in batches]) for _ in range(4)]
    assert [len(p) for p in passes] == [8, 8, 11, 14]
    assert passes[0].tolist() != passes[1].tolist()
    assert set(passes[0].tolist()) == set(passes[1].tolist()) == set(order.rows(0).tolist())
    again = ExpandingBatches((torch.arange(24), groups), order, 5, epoch=2, seed=1)
    assert torch.cat([rows for rows, _ in again]).tolist() == passes[2].tolist()
    whole = ExpandingBatches((groups,), order, None)
    assert [len(b) for (b,) in whole] == [8]


def _mse(model, x, y):
    return (model(x)[:, 0] - y).square().mean()


def test_two_stages_are_one_training_with_the_momentum_kept_and_the_rate_decayed():
    x, y = torch.randn(12, 3, generator=generator(1)), torch.randn(12, generator=generator(2))
    order = ProgressiveExpansion(torch.tensor([0] * 9 + [1] * 3), 3, 2, 2, generator=generator())
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    plain = copy.deepcopy(model)
    fit_expanding(model, (x, y), _mse, order, epochs=6, lr=0.1, decay=0.5, batch_size=None, show_progress=False)
    tuner = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(6):
        if epoch == 3:
            tuner.param_groups[0]["lr"] = 0.05
        rows = order.rows(epoch)
        tuner.zero_grad()
        _mse(plain, x[rows], y[rows]).backward()
        tuner.step()
    torch.testing.assert_close(model.weight, plain.weight)
    torch.testing.assert_close(model.bias, plain.bias)


def test_the_history_says_where_the_expansion_began():
    x, y = torch.randn(12, 3, generator=generator(1)), torch.randn(12, generator=generator(2))
    order = ProgressiveExpansion(torch.tensor([0] * 9 + [1] * 3), 3, 2, 2, generator=generator())
    torch.manual_seed(0)
    first, second = fit_expanding(nn.Linear(3, 1), (x, y), _mse, order, epochs=5, lr=0.1, show_progress=False)
    assert second is not None
    assert (len(first.rows), len(second.rows)) == (3, 2)
    _, none = fit_expanding(nn.Linear(3, 1), (x, y), _mse, order, epochs=2, lr=0.1, show_progress=False)
    assert none is None


def test_the_best_of_the_worst_group_can_be_kept():
    """With validation, a stage ends with the weights whose monitored metric was highest."""
    x, y = torch.randn(12, 3, generator=generator(1)), torch.randn(12, generator=generator(2))
    order = ProgressiveExpansion(torch.tensor([0] * 9 + [1] * 3), 2, 1, 2, generator=generator())

    def watched(model, x, y):
        value = _mse(model, x, y)
        return value, {"worst": -value.detach()}

    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    _, second = fit_expanding(model, (x, y), watched, order, epochs=8, lr=0.7, validation=[(x, y)],
                              monitor="-worst", show_progress=False)  # fmt: skip
    assert second is not None
    best = max(row["validation_worst"] for row in second.rows)
    assert float(-_mse(model, x, y).detach()) == pytest.approx(best, rel=1e-5)


def test_what_cannot_be_is_refused():
    groups = torch.tensor([0, 0, 2])
    with pytest.raises(ValueError, match="empty group"):
        ProgressiveExpansion(groups, 1, 1, 1, count=3)
    with pytest.raises(ValueError, match="no sample"):
        ProgressiveExpansion(groups[:0], 1, 1, 1)
    with pytest.raises(ValueError, match="start"):
        ProgressiveExpansion(groups, 0, 1, 1)
    with pytest.raises(ValueError, match="interval"):
        ProgressiveExpansion(groups, 1, 0, 1)
    with pytest.raises(ValueError, match="add_num"):
        ProgressiveExpansion(groups, 1, 1, 0)
    order = ProgressiveExpansion(groups, 1, 1, 1)
    with pytest.raises(ValueError, match="epoch"):
        order.rows(-1)
    with pytest.raises(ValueError, match="lengths"):
        ExpandingBatches((groups[:2],), order)
    with pytest.raises(ValueError, match="batch_size"):
        ExpandingBatches((groups,), order, 0)
    with pytest.raises(ValueError, match="epochs"):
        fit_expanding(nn.Linear(1, 1), (groups,), _mse, order, epochs=0, lr=0.1)
    with pytest.raises(ValueError, match="decay"):
        fit_expanding(nn.Linear(1, 1), (groups,), _mse, order, epochs=1, lr=0.1, decay=0.0)
