import copy
import re
import socket

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from gramian.analysis.fisher import layers, store
from gramian.analysis.fisher.accumulator import FisherAccumulator


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Everything(nn.Module):
    """One of every layer of the fast path, a module called twice, and tied weights."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=0)
        self.place = nn.Embedding(6, 8)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.group = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1]).unsqueeze(0))
        x = self.mix(torch.tanh(self.mix(self.norm(x))))
        x = x + self.group(self.conv(x.mT)).mT
        return self.head(x.relu_())


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="circular"), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, (1, 3), dilation=(1, 2), padding="same"), nn.Flatten(), nn.Linear(96, 3),
        )  # fmt: skip
        self.net[1].running_mean.normal_(generator=generator(1))
        self.scale = nn.Parameter(torch.ones(3))  # outside of every layer: for vmap

    def forward(self, x):
        return self.net(x) * self.scale


def text_problem():
    model = Everything().eval().double()
    ids = torch.randint(0, 11, (5, 6), generator=generator())
    targets = torch.randint(0, 11, (5, 6), generator=generator(1))
    targets[2, 3:] = -100
    return model, ids, targets


def image_problem():
    model = Images().eval().double()
    x = torch.randn(7, 2, 8, 8, generator=generator(), dtype=torch.float64)
    return model, x, torch.randint(0, 3, (7,), generator=generator(1))


def gradients(model, x, y):
    """Rows of dense gradients, one sample after the other."""
    rows = []
    for i in range(len(x)):
        logits = model(x[i : i + 1])
        loss = F.cross_entropy(logits.flatten(0, -2), y[i : i + 1].flatten(), reduction="sum", ignore_index=-100)
        found = torch.autograd.grad(loss, list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def close(a, b, tolerance=1e-10):
    assert (a - b).detach().norm() <= tolerance * b.detach().norm()


@pytest.mark.parametrize("problem", [text_problem, image_problem])
@pytest.mark.parametrize("method", ["auto", "vmap", "loop"])
def test_the_diagonal_is_the_mean_of_squared_gradients_of_samples(problem, method):
    model, x, y = problem()
    dense = gradients(model, x, y)
    fisher = FisherAccumulator(model, method=method)
    fisher.update(x[:3], y[:3]).update(x[3:], y[3:])
    close(fisher.vector(), dense.square().mean(0))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    if method == "auto":
        assert fisher.slow == ({"scale"} if problem is image_problem else set())


@pytest.mark.parametrize("problem", [text_problem, image_problem])
def test_blocks_and_windows_are_dense_products(problem):
    model, x, y = problem()
    dense = gradients(model, x, y)
    window = FisherAccumulator(model, "window", window=4).update(x[:3], y[:3]).update(x[3:], y[3:])
    close(window.value(), dense[-4:])
    blocks = FisherAccumulator(model, "block").update(x, y).value()
    start = 0
    for name, parameter in model.named_parameters():
        part = dense[:, start : start + parameter.numel()]
        close(blocks[name], part.T @ part / len(x))
        start += parameter.numel()


def test_a_chunk_of_one_sample_gives_the_same():
    model, x, y = image_problem()
    whole = FisherAccumulator(model).update(x, y).vector()
    close(FisherAccumulator(model, max_bytes=1).update(x, y).vector(), whole)
    assert not torch.allclose(whole, FisherAccumulator(model, gradients="batch").update(x, y).vector(), rtol=0.1)


def test_one_large_weight_with_and_without_positions():
    for shape in ((4, 200), (4, 5, 200)):
        model = nn.Linear(200, 180).double()
        x = torch.randn(shape, generator=generator(), dtype=torch.float64)
        y = torch.randint(0, 180, shape[:-1], generator=generator(1))
        close(FisherAccumulator(model).update(x, y).vector(), gradients(model, x, y).square().mean(0))


def test_the_true_fisher_is_the_closed_form_of_softmax_regression_and_draws_converge_to_it():
    model = nn.Linear(4, 3).double()
    x = torch.randn(50, 4, generator=generator(), dtype=torch.float64)
    p = model(x).softmax(-1).detach()
    exact = torch.einsum("nk,nd->kd", p * (1 - p), x.square()) / len(x)
    true = FisherAccumulator(model, source="true").update(x)
    close(true.value()["weight"], exact)
    close(true.value()["bias"], (p * (1 - p)).mean(0))

    def error(draws: int, seed: int) -> float:
        drawn = FisherAccumulator(model, source="mc", draws=draws, generator=generator(seed)).update(x)
        return float((drawn.value()["weight"] - exact).norm() / exact.norm())

    few, many = (sum(error(d, seed) for seed in range(8)) / 8 for d in (1, 100))
    assert 0.05 < many / few < 0.2, "a hundred draws leave a tenth of the error of one"
    slow = FisherAccumulator(model, source="true", method="vmap").update(x)
    close(slow.vector(), true.vector())
    looped = FisherAccumulator(model, source="true", method="loop").update(x)
    close(looped.vector(), true.vector())


def test_a_gaussian_models_fisher_is_its_jacobians():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(6, 3, generator=generator(), dtype=torch.float64)
    rows = [torch.autograd.grad(model(x)[n, o], list(model.parameters())) for n in range(6) for o in range(2)]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    close(FisherAccumulator(model, source="true", loss="gaussian").update(x).vector(), jacobian.square().sum(0) / 6)
    blocks = FisherAccumulator(model, "block", "true", loss="gaussian").update(x).value()
    close(blocks["0.weight"], jacobian[:, :15].T @ jacobian[:, :15] / 6)


def test_kronecker_factors_are_exact_where_the_matrix_is_a_product():
    model = nn.Linear(4, 3).double()
    x = torch.randn(1, 4, generator=generator(), dtype=torch.float64)
    y = torch.tensor([1])
    inputs, outputs = FisherAccumulator(model, "kfac").update(x, y).value()[""]
    weight = gradients(model, x, y)[0]
    rows = torch.cat([weight[:12].view(3, 4), weight[12:, None]], 1).flatten()
    close(torch.kron(outputs, inputs), torch.outer(rows, rows))


def test_kronecker_factors_of_a_network_are_means_of_outer_products():
    model, x, y = image_problem()
    factors = FisherAccumulator(model, "kfac").update(x[:3], y[:3]).update(x[3:], y[3:]).value()
    assert list(factors) == ["net.0", "net.3", "net.5"]
    hidden = model.net[:-1](x).detach()
    a = torch.cat([hidden, torch.ones(7, 1)], 1)
    close(factors["net.5"][0], a.T @ a / 7)
    assert factors["net.0"][0].shape == (19, 19)
    assert factors["net.0"][1].shape == (4, 4)
    patches = layers.patches(model.net[3], layers.padded(model.net[3], model.net[:3](x))).mT.flatten(0, 1).detach()
    close(factors["net.3"][0][:-1, :-1], patches.T @ patches / len(patches))


class Elsewhere(nn.Module):
    """A weight that is used by its layer and again behind the layer's back, and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x):
        return F.linear(F.linear(self.first(x), self.first.weight), self.second.weight)


def test_uses_that_no_hook_sees_are_found_out():
    model = Elsewhere().double()
    x, y = torch.randn(6, 4, dtype=torch.float64, generator=generator()), torch.arange(6) % 4
    fisher = FisherAccumulator(model).update(x, y)
    assert fisher.slow == {"first.weight", "second.weight", "second.bias"}
    want = FisherAccumulator(model, method="loop").update(x, y)
    close(fisher.vector(), want.vector())
    with pytest.raises(ValueError, match="fast path does not reach"):
        FisherAccumulator(model, method="fast").update(x, y)


class TimeFirst(nn.Module):
    """Its layer reads (time, batch, features): the leading axis is not the samples'."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).mean(0)


@pytest.mark.parametrize("length", [5, 6])
def test_a_layer_that_reads_time_first_is_found_out(length):
    model = TimeFirst().double()
    x, y = torch.randn(6, length, 4, dtype=torch.float64, generator=generator()), torch.arange(6) % 3
    close(FisherAccumulator(model).update(x, y).vector(), gradients(model, x, y).square().mean(0))


def test_a_layer_that_reads_flattened_positions_is_fast():
    model = nn.Sequential(nn.Flatten(0, 1), nn.Linear(4, 3), nn.Unflatten(0, (-1, 5))).double()
    x = torch.randn(6, 5, 4, dtype=torch.float64, generator=generator())
    y = torch.randint(0, 3, (6, 5), generator=generator(1))
    fisher = FisherAccumulator(model, method="fast").update(x, y)
    close(fisher.vector(), gradients(model, x, y).square().mean(0))


def test_merging_and_files_add_up(tmp_path):
    model, x, y = text_problem()
    whole = FisherAccumulator(model).update(x, y)
    first, second = FisherAccumulator(model).update(x[:2], y[:2]), FisherAccumulator(model).update(x[2:], y[2:])
    path = first.save(tmp_path / "fisher.safetensors")
    loaded = FisherAccumulator(model).load(path).merge(second)
    assert loaded.count == 5
    close(loaded.vector(), whole.vector(), 1e-14)
    assert store.read_diagonal(path)["mix.weight"].equal(first.value()["mix.weight"])
    with pytest.raises(ValueError, match="another architecture"):
        FisherAccumulator(nn.Linear(2, 2)).load(path)
    with pytest.raises(ValueError, match="source="):
        FisherAccumulator(model, source="mc").load(path)
    before = path.read_bytes()
    path.write_bytes(before[:100])
    with pytest.raises(ValueError, match="damaged"):
        FisherAccumulator(model).load(path)
    path.write_bytes(before)
    assert [p.name for p in tmp_path.iterdir()] == ["fisher.safetensors"]


def _process(rank, port, results):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x = torch.randn(6, 4, generator=generator(), dtype=torch.float64)
    y = torch.arange(6) % 3
    mine = slice(0, 4) if rank == 0 else slice(4, 6)
    found = FisherAccumulator(model).update(x[mine], y[mine]).all_reduce()
    rows = FisherAccumulator(model, "window", window=5).update(x[mine], y[mine]).all_reduce()
    one = FisherAccumulator(model).update(x, y)
    whole = FisherAccumulator(model, "window", window=5).update(x, y)
    same = torch.allclose(found.vector(), one.vector(), rtol=1e-12) and torch.allclose(rows.value(), whole.value())
    results[rank] = bool(same) and found.count == 6
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_get_what_one_gets():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(_process, (port, results), nprocs=2)
        assert dict(results) == {0: True, 1: True}


def test_half_precision_is_added_up_in_float32():
    model = nn.Linear(16, 4)
    x, y = torch.randn(9, 16, generator=generator()), torch.arange(9) % 4
    exact = FisherAccumulator(model).update(x, y).vector()
    half = FisherAccumulator(copy.deepcopy(model).bfloat16()).update(x.bfloat16(), y).vector()
    assert half.dtype == torch.float32
    close(half, exact, 0.03)


def test_frozen_parameters_are_left_out_and_patterns_choose():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    assert list(FisherAccumulator(model).update(x, y).value()) == ["0.bias", "1.weight", "1.bias"]
    assert list(FisherAccumulator(model, params=re.compile(r"1\.w|bias")).parameters) == [
        "0.bias",
        "1.weight",
        "1.bias",
    ]
    assert not model[0].weight.requires_grad
    with pytest.raises(ValueError, match="frozen"):
        FisherAccumulator(model, params="0.weight")
    with pytest.raises(ValueError, match="no parameter matches"):
        FisherAccumulator(model, params="2.*")


def test_bad_input_is_refused_and_leaves_the_sums():
    model = nn.Linear(3, 2)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    fisher = FisherAccumulator(model).update(x, y)
    before = fisher.vector()
    bad = x.clone()
    bad[1, 1] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        fisher.update(bad, y)
    assert fisher.vector().equal(before)
    assert fisher.count == 4
    with pytest.raises(ValueError, match="needs targets"):
        fisher.update(x)
    with pytest.raises(ValueError, match="hold no sample"):
        fisher.update(x[:0], y[:0])
    with pytest.raises(ValueError, match="nothing was added"):
        FisherAccumulator(model).value()
    with pytest.raises(ValueError, match="logits are"):
        fisher.update(x, y[:3])
    with pytest.raises(ValueError, match="meta"):
        FisherAccumulator(nn.Linear(3, 2, device="meta"))
    with pytest.raises(ValueError, match="needs to know"):
        FisherAccumulator(model, source="mc", loss=lambda outputs, targets: outputs[:, 0])
    with pytest.raises(ValueError, match="each is at least 1"):
        FisherAccumulator(model, draws=0)
    with pytest.raises(ValueError, match="evaluation mode"):
        FisherAccumulator(nn.Sequential(model, nn.Dropout(0.1))).update(x, y)
    with pytest.raises(ValueError, match="source='mc'"):
        FisherAccumulator(model, source="true").update(torch.randn(4, 5, 3))
    with pytest.raises(ValueError, match="does not fit"):
        FisherAccumulator(nn.Linear(100, 100), "block")
    with pytest.raises(ValueError, match="needs the weight"):
        FisherAccumulator(nn.LayerNorm(3), "kfac")
    with pytest.raises(ValueError, match="grouped"):
        FisherAccumulator(nn.Conv2d(4, 4, 1, groups=2), "kfac")
    with pytest.raises(ValueError, match="one gradient a sample"):
        FisherAccumulator(model, "window", "true").update(x)
    with pytest.raises(ValueError, match="squares whole batches"):
        FisherAccumulator(model, source="true", gradients="batch")


def test_a_loss_of_ones_own():
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    own = FisherAccumulator(model, loss=lambda outputs, targets: (outputs - targets).square().sum(1) / 2).update(x, y)
    close(own.vector(), FisherAccumulator(model, loss="gaussian").update(x, y).vector())
    with pytest.raises(ValueError, match="loss of each sample"):
        FisherAccumulator(model, loss=lambda outputs, targets: outputs.sum()).update(x, y)
