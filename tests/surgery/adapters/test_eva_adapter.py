import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian.surgery.adapters.eva import EVANotConverged, attach_eva, explain_inputs, share_ranks


class Net(nn.Module):
    """q and k read the same input, v another, the head what they give."""

    def __init__(self, width=12):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, width)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 3)

    def forward(self, x, attention_mask=None):
        return self.head(torch.tanh(self.q(x) * self.k(x)) + self.v(x.flip(-1)))


def batches(count=30, seed=0, size=16):
    g = torch.Generator().manual_seed(seed)
    scale = 0.6 ** torch.arange(12)
    return [torch.randn(size, 5, 12, generator=g) * scale + 1 for _ in range(count)]


@settings(max_examples=25)
@given(st.lists(st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4), min_size=1, max_size=6), st.integers(0, 4))
def test_ranks_go_to_the_largest_shares(values, rank):
    ratios = {str(i): torch.tensor(sorted(v, reverse=True)) for i, v in enumerate(values)}
    ranks = share_ranks(ratios, rank * len(values))
    assert sum(ranks.values()) == rank * len(values)
    taken = sorted((float(x) for n, r in ratios.items() for x in r[: ranks[n]]), reverse=True)
    pooled = sorted((float(x) for r in ratios.values() for x in r), reverse=True)
    assert taken == pooled[: rank * len(values)]


def test_directions_are_the_inputs_principal_components():
    net, data = Net(), batches()
    found = explain_inputs(net, "*", data, rank=3)
    assert found.converged
    assert found.groups == (("q", "k"), ("v",), ("head",))
    assert sum(found.ranks.values()) == 12
    assert all(r <= 6 for r in found.ranks.values())
    rows = torch.cat(data[: found.batches]).flatten(0, 1)
    _, s, vh = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    rank = found.ranks["q"]
    assert torch.linalg.svdvals(found.components["q"] @ vh[:rank].T)[-1] > 0.999
    torch.testing.assert_close(found.singular_values["q"], s[:rank], rtol=0.02, atol=0)
    torch.testing.assert_close(found.ratios["q"][:3], (s**2 / (s**2).sum())[:3], rtol=0.02, atol=0)
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_the_start_is_the_base_and_scalings_agree():
    net = Net()
    x, found = batches(1)[0], explain_inputs(net, ["q", "v", "head"], batches(), rank=2, rho=3)
    before = net(x)
    attached = attach_eva(net, found, alpha=5)
    assert torch.equal(net(x), before)
    assert set(attached.names) == {n for n, r in found.ranks.items() if r}
    for name in attached.names:
        assert attached[name].scaling == 2.5
        assert torch.equal(attached[name].A.detach(), found.components[name])
    attached.undo()
    white = attach_eva(net, found, whiten=True)
    name = white.names[0]
    torch.testing.assert_close(white[name].A.norm(dim=1), found.singular_values[name].rsqrt().to(white[name].A.dtype))


def test_padding_is_left_out_and_modes_come_back():
    net = Net()
    net.v.eval()
    mask = torch.ones(16, 5, dtype=torch.long)
    mask[:, 3:] = 0

    def padded(value):
        found = []
        for x in batches():
            x = x.clone()
            x[:, 3:] = value
            found.append({"x": x, "attention_mask": mask})
        return found

    small, large = (explain_inputs(net, "q", padded(value), rank=2) for value in (0.0, 1e3))
    assert torch.equal(small.components["q"], large.components["q"])
    assert net.training
    assert not net.v.training


def test_too_few_passes_warn_and_too_few_rows_raise():
    net = Net()
    with pytest.warns(EVANotConverged, match="after 2 batches"):
        found = explain_inputs(net, "*", batches(2), rank=3, tau=1.0, max_passes=1)
    assert not found.converged
    assert sum(found.ranks.values()) == 12
    with pytest.raises(ValueError, match="4 rows give fewer than"):
        explain_inputs(net, "*", [torch.randn(4, 12)], rank=3, max_passes=1)


def test_another_way_to_run_the_model():
    net, seen = Net(), []

    def run(model, batch):
        seen.append(len(batch["rows"]))
        return model(batch["rows"])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EVANotConverged)
        explain_inputs(net, "q", [{"rows": x} for x in batches(4)], rank=1, run=run)
    assert seen[0] == 16


def test_bad_input():
    net = Net()
    for options, match in (
        ({"rank": 0}, "rank=0"),
        ({"rho": 0.5}, "rho=0.5"),
        ({"tau": 0.0}, "tau"),
        ({"rank": 8}, "least side of its weight is 12"),
    ):
        with pytest.raises(ValueError, match=match):
            explain_inputs(net, "*", batches(2), **{"rank": 2, **options})
    with pytest.raises(ValueError, match="no batches"):
        explain_inputs(net, "*", [])
    with pytest.raises(TypeError, match="only once"):
        explain_inputs(net, "*", iter(batches(2)))
    with pytest.raises(TypeError, match="is a Conv1d"):
        explain_inputs(nn.Sequential(nn.Conv1d(1, 1, 1)), "*", batches(2))
    with pytest.raises(ValueError, match="no linear layer"):
        explain_inputs(nn.Sequential(nn.ReLU()), "*", batches(2))
    with pytest.raises(ValueError, match="no layer matches"):
        explain_inputs(net, "decoder", batches(2))
    with pytest.raises(ValueError, match="budget=9"):
        share_ranks({"a": torch.ones(4)}, 9)
    found = explain_inputs(net, "q", batches(), rank=1)
    with pytest.raises(ValueError, match="leave out init="):
        attach_eva(net, found, init="svd")
    with pytest.raises(ValueError, match="no layer matches q"):
        attach_eva(nn.Sequential(nn.Linear(12, 12)), found)
