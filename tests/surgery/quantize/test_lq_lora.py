import itertools

import numpy as np
import pytest
import torch
from torch import nn

from gramian.linalg.factor import lowrank
from gramian.linalg.factor.quant.normal_float import BlockFormat, round_blocks
from gramian.nn.quantized.packed import QuantizedLinear
from gramian.surgery.quantize.lq_lora import choose_formats, error_table, lq_decompose, to_lq

FORMAT = BlockFormat(3, 16, None)


def weight(seed=0, rows=48, columns=64):
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(rows, 6, generator=generator) @ torch.randn(6, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator) + low


def test_it_beats_quantization_alone_and_factors_after_it():
    w = weight()
    found = lq_decompose(w, 6, FORMAT)
    plain = round_blocks(w, FORMAT)
    after = plain + lowrank.truncated_svd(w - plain, 6).product()
    assert found.error < 0.95 * float((w - after).norm()) < 0.95 * float((w - plain).norm())
    product = found.quantized + found.up @ found.down
    assert float((w - product).norm()) == pytest.approx(found.error, rel=1e-5)
    assert found.error == min(found.errors)
    assert torch.equal(found.quantized, round_blocks(found.residual, FORMAT))


def test_a_fisher_matrix_moves_the_error():
    w, generator = weight(), torch.Generator().manual_seed(3)
    fisher = torch.rand(48, 1, generator=generator) ** 6 * torch.rand(1, 64, generator=generator) ** 6
    ours, plain = (lq_decompose(w, 6, FORMAT, f) for f in (fisher, None))
    root = fisher.sqrt()
    weighted = [float((root * (w - d.quantized - d.up @ d.down)).norm()) for d in (ours, plain)]
    assert weighted[0] < weighted[1]
    assert weighted[0] == pytest.approx(ours.error, rel=1e-5)
    constant = lq_decompose(w, 6, FORMAT, torch.full_like(w, 4.0), randomized=False)
    assert constant.error == pytest.approx(2 * lq_decompose(w, 6, FORMAT, randomized=False).error, rel=1e-3)


def test_the_chosen_formats_are_brute_force_s():
    formats = [BlockFormat(b, 16, 8, 4) for b in (2, 3, 4)]
    weights = [(1 + i) * weight(i, 16, 32) for i in range(4)]
    cost, bits = error_table(weights, formats)
    chosen, found = choose_formats(weights, formats, 3.8)
    budget = 3.8 * 4 * 512
    best = min(
        sum(cost[i, c] for i, c in enumerate(choice))
        for choice in itertools.product(range(3), repeat=4)
        if sum(bits[i, c] for i, c in enumerate(choice)) <= budget
    )
    assert found.cost == pytest.approx(best)
    assert [f.bits for f in chosen] == [formats[c].bits for c in found.choice]
    assert np.isclose(found.used, sum(f.bits_per_number * 512 for f in chosen))


def test_a_model_is_replaced_trained_and_restored():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8))
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    before = model(x)
    handle = to_lq(model, BlockFormat(4, 16, None), rank=2)
    assert isinstance(model[0], QuantizedLinear)
    assert (model(x) - before).norm() < 0.1 * before.norm()
    model(x).sum().backward()
    assert model[0].up.grad is not None
    merged = model(x)
    handle.merge()
    assert torch.allclose(model(x), merged, atol=1e-5)
    handle.undo()
    assert torch.equal(model(x), before)
    with to_lq(model, {"2": BlockFormat(4, 16, None)}, rank=0):
        assert type(model[0]) is nn.Linear


def test_what_cannot_be_is_refused():
    w = weight()
    for rank in (0, 49):
        with pytest.raises(ValueError, match="rank"):
            lq_decompose(w, rank, FORMAT)
    with pytest.raises(ValueError, match="does not divide"):
        lq_decompose(w, 2, BlockFormat(4, 1000, None))
    with pytest.raises(ValueError, match="at least 0"):
        lq_decompose(w, 2, FORMAT, -torch.ones_like(w))
    with pytest.raises(ValueError, match="shape"):
        lq_decompose(w, 2, FORMAT, torch.ones(3, 3))
    with pytest.raises(ValueError, match="smallest that can is"):
        choose_formats([w], [FORMAT], 2.0)
    with pytest.raises(ValueError, match="at least one"):
        error_table([], [FORMAT])
    with pytest.raises(ValueError, match=r"lacks 0\.weight"):
        to_lq(nn.Sequential(nn.Linear(16, 4)), FORMAT, 1, fisher={})
    with pytest.raises(ValueError, match="0: rank"):
        to_lq(nn.Sequential(nn.Linear(16, 4)), FORMAT, 9)
