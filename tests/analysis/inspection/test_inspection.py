"""What is said of a model's matrices and activations, against direct computation."""

import json
import math

import pytest
import torch
from torch import nn

from gramian.analysis.inspection.activations import Activity, inspect_activations
from gramian.analysis.inspection.fisher_mass import fisher_mass
from gramian.analysis.inspection.matrices import inspect_matrices, split_name
from gramian.analysis.inspection.report import inspect_model
from gramian.analysis.taps import Taps
from gramian.linalg.spectral import spectra
from gramian.models.example_inputs import Inputs
from gramian.models.opening import Opened


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 11)

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.head(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def test_every_figure_of_a_matrix_is_the_directly_computed_one():
    torch.manual_seed(0)
    layer = nn.Linear(30, 40, bias=False)
    m = inspect_matrices(nn.Sequential(layer))[0]
    w = layer.weight.detach().double()
    sigma = torch.linalg.svdvals(w)
    assert torch.allclose(m.singular_values, sigma, atol=1e-7)
    assert m.norm == pytest.approx(float(w.norm()))
    assert m.stable_rank == pytest.approx(float(w.square().sum() / sigma[0] ** 2))
    assert m.effective_rank == pytest.approx(float(spectra.effective_rank(w)), rel=1e-6)
    assert m.largest == pytest.approx(float(w.abs().max() / w.square().mean().sqrt()))
    for error, rank in m.rank_at.items():
        left = [float(sigma[r:].square().sum().sqrt() / w.norm()) for r in range(len(sigma) + 1)]
        assert rank == next(r for r, e in enumerate(left) if e <= error + 1e-12)
    assert m.break_even * (30 + 40) < 30 * 40 <= (m.break_even + 1) * (30 + 40)
    assert (m.rows, m.columns, m.depth, m.kind) == (40, 30, 0, "block")


def test_a_planted_rank_is_found_and_zeros_are_no_error():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48, bias=False), nn.Linear(48, 24, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(48, 3) @ torch.randn(3, 32))
        model[1].weight.zero_()
    low, zero = inspect_matrices(model)
    assert low.rank_at[0.01] == 3
    assert low.effective_rank <= 3.001
    assert zero.rank_at == {0.01: 0, 0.05: 0}
    assert zero.norm == 0


def test_convolutions_are_outputs_by_the_rest_and_tied_weights_come_once():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3))
    net[1].weight = net[0].weight
    found = inspect_matrices(net)
    assert [(m.rows, m.columns) for m in found] == [(5, 27)]


def test_activity_is_counted_as_defined_whatever_the_batches():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0
    x[:, 3] *= 40
    whole, halves = Activity(), Activity()
    whole.update(x)
    for part in x.split(17):
        other = Activity()
        other.update(part)
        halves.merge(other)
    rms = x.square().mean(1, keepdim=True).sqrt()
    assert whole.zeros == pytest.approx(1 / 6)
    assert whole.quiet == pytest.approx(float((x.abs() <= 0.1 * rms).double().mean()))
    share = x.square().sum(1).square() / (6 * x.pow(4).sum(1))
    assert whole.participation == pytest.approx(float(share.mean()), rel=1e-6)
    assert halves.participation == pytest.approx(whole.participation)
    assert torch.equal(halves.largest, whole.largest)
    assert torch.allclose(whole.feature_sizes, x.double().square().mean(0).sqrt())


def test_activations_are_seen_at_every_layer_and_the_model_is_left_as_it_was(net):
    net.train()
    net.head.eval()
    ids = torch.arange(10).view(2, 5)
    flows = inspect_activations(net, [{"input_ids": ids}], [torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])])
    assert [f.name for f in flows] == ["layers.0", "layers.1", "layers.2", "head"]
    assert {f.samples for f in flows} == {8}
    assert net.training
    assert not net.head.training
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_channels_of_pictures_are_the_features():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    x = torch.rand(2, 3, 8, 8)
    x[:, 1] = 0
    conv, linear = inspect_activations(Named(net), [{"x": x}])
    assert conv.zeros == pytest.approx(1 / 3)
    assert conv.samples == 2 * 64
    assert linear.samples == 2


class Named(nn.Module):
    def __init__(self, net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def test_the_fisher_mass_is_each_matrix_share_of_the_squared_gradients(net):
    ids = torch.randint(11, (192,), generator=torch.Generator().manual_seed(0))
    inputs = Inputs([{"input_ids": ids.view(1, -1)}], [None], "")
    mass = fisher_mass(Opened("net", net, "text"), inputs)
    sums = dict.fromkeys(mass, 0.0)
    for piece in ids.view(3, 64):
        logits = net(piece[None])
        loss = nn.functional.cross_entropy(logits[0, :-1], piece[1:], reduction="sum")
        for name, g in zip(sums, torch.autograd.grad(loss, [net.get_parameter(n) for n in sums]), strict=True):
            sums[name] += float(g.square().sum())
    total = sum(sums.values())
    assert sum(mass.values()) == pytest.approx(1)
    for name in sums:
        assert mass[name] == pytest.approx(sums[name] / total, rel=1e-4)


def test_the_whole_inspection_is_written_as_json(net, tmp_path):
    ids = torch.randint(11, (1, 128), generator=torch.Generator().manual_seed(0))
    found = inspect_model(Opened("net", net, "text"), Inputs([{"input_ids": ids}], [None], "ids"))
    found.write(tmp_path / "inspect.json")
    record = json.loads((tmp_path / "inspect.json").read_text())
    assert len(record["matrices"]) == 5
    assert record["fisher"].keys() == {m["name"] for m in record["matrices"]}
    assert math.isfinite(record["facts"]["perplexity of the first 128 tokens"])
    assert any("Fisher" in line for line in record["findings"])


def test_names_are_split_at_the_block_number():
    assert split_name("h.3.attn.c_attn.weight") == (3, "attn.c_attn")
    assert split_name("layers.0") == (0, "block")
    assert split_name("head.weight") == (None, "head")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inspect_matrices(nn.ReLU()), "no weight matrix"),
        (lambda: inspect_matrices(nn.Linear(3, 3, device="meta")), "meta"),
        (lambda: inspect_activations(nn.Linear(3, 3), []), "no batch"),
        (lambda: inspect_activations(nn.ReLU(), [{"input": torch.zeros(1)}]), "no linear layer"),
        (lambda: Taps(nn.Linear(2, 2), {"": [Activity()]}, reduce="rows"), "places"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=rf"{message}|reduce"):
        call()


def test_nan_is_named():
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"0\.weight holds NaN"):
        inspect_matrices(nn.Sequential(layer))
