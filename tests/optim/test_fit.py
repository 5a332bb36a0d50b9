import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gramian.optim import Diverged, fit, parameter_groups
from gramian.optim.checkpoint import load_checkpoint
from processes import launch


def loss(module, x, y):
    prediction = module(x)[..., 0]
    return F.mse_loss(prediction, y), {"error": (prediction - y).abs().mean()}


def problem(n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return x, x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3


def network(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_recovers_a_linear_map():
    module, (x, y) = nn.Linear(3, 1), problem()
    rows = []
    history = fit(
        module, (x, y), loss, epochs=200, lr=0.05, schedule="cosine", warmup=5, log=lambda **row: rows.append(row)
    )
    assert torch.allclose(module.weight.detach()[0], torch.tensor([1.0, -2.0, 0.5]), atol=1e-2)
    assert history["loss"][-1] < 1e-3 < history["loss"][0]
    assert rows == history.rows
    assert history.steps == 400
    assert len(history.frame) == 200
    assert not module.training


@pytest.mark.parametrize("data", [
    lambda: problem(), lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*problem()), 16),
    lambda: [problem(8, 1), problem(8, 2)],
    lambda: lambda generator: problem(16, int(torch.randint(99, (), generator=generator))),
])  # fmt: skip
def test_every_kind_of_data(data):
    history = fit(network(), data(), loss, steps=25, lr=0.02, clip=1.0)
    assert history.steps == 25
    assert history["loss"][-1] < history["loss"][0]


def test_every_sample_is_seen_once_an_epoch():
    seen = []

    def spy(module, index):
        seen.append(index.clone())
        return module(index.float()[:, None]).mean()

    fit(nn.Linear(1, 1), torch.arange(23), spy, epochs=2, batch_size=5)
    first, second = torch.cat(seen[:5]), torch.cat(seen[5:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(23))
    assert first.tolist() != second.tolist()


def test_metrics_are_means_over_samples():
    values = torch.arange(7.0)
    module = nn.Linear(1, 1)
    history = fit(
        module,
        (values,),
        lambda m, v: (m.weight.sum() * 0, {"mean": v.mean()}),
        epochs=1,
        batch_size=4,
        validation=(values[:3],),
    )
    assert history.rows[0]["mean"] == pytest.approx(3.0)
    assert history.rows[0]["validation_mean"] == pytest.approx(1.0)


def test_same_generator_same_result():
    results = []
    for _ in range(2):
        module = network()
        fit(module, problem(), loss, epochs=3, generator=torch.Generator().manual_seed(5))
        results.append(weights(module))
    assert torch.equal(*results)


@pytest.mark.parametrize("mode", ["epochs", "steps"])
def test_a_fit_cut_off_continues_bit_for_bit(tmp_path, mode):
    options = {
        "batch_size": 16,
        "lr": 0.01,
        "schedule": "cosine",
        "validation": problem(20, 1),
        mode: 6 if mode == "epochs" else 23,
    }
    whole = network(dropout=0.3)
    torch.manual_seed(7)
    expected = fit(whole, problem(), loss, **options)

    class Cut(Exception):
        pass

    def cut(**row):
        if row["epoch"] == 3:
            raise Cut

    module = network(dropout=0.3)
    torch.manual_seed(7)
    with pytest.raises(Cut):
        fit(module, problem(), loss, checkpoint=tmp_path / "fit.safetensors", log=cut, **options)
    fresh = network(seed=99, dropout=0.3)  # another start: everything comes from the checkpoint
    history = fit(fresh, problem(), loss, checkpoint=tmp_path / "fit.safetensors", **options)
    assert torch.equal(weights(fresh), weights(whole))
    assert history["validation_loss"] == expected["validation_loss"]
    assert history.best["epoch"] == expected.best["epoch"]
    assert not list(tmp_path.glob(".*"))


def test_checkpoint_of_another_fit_is_refused(tmp_path):
    path = tmp_path / "fit.safetensors"
    fit(network(), problem(), loss, epochs=2, checkpoint=path)
    with pytest.raises(ValueError, match="left by a fit with"):
        fit(network(), problem(), loss, epochs=3, lr=0.5, checkpoint=path)
    with pytest.raises(ValueError, match="another module"):
        fit(nn.Linear(3, 1), problem(), loss, epochs=3, checkpoint=path)
    assert fit(network(), problem(), loss, epochs=3, checkpoint=path).rows[-1]["epoch"] == 3
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        fit(network(), problem(), loss, epochs=3, checkpoint=path)


def test_checkpoints_keep_complex_tensors(tmp_path):
    from gramian.optim.checkpoint import save_checkpoint

    tensors = {"a": torch.randn(3, dtype=torch.complex128), "b": torch.randn(2, 2).T}
    save_checkpoint(tmp_path / "x", tensors, {"n": [1, None]})
    loaded, header = load_checkpoint(tmp_path / "x")
    assert header == {"n": [1, None]}
    assert all(torch.equal(tensors[k], loaded[k]) for k in tensors)


def test_early_stopping_restores_the_best_weights():
    x, y = problem(20)
    module = network()
    # the held-out labels are noise: after some rounds the validation loss only rises
    held_out = (problem(20, 1)[0], torch.randn(20, generator=torch.Generator().manual_seed(3)))
    history = fit(module, (x, y), loss, epochs=300, lr=0.05, validation=held_out, patience=4)
    assert history.stopped == "patience"
    assert len(history.rows) == history.best["epoch"] + 4
    with torch.no_grad():
        assert float(loss(module, *held_out)[0]) == pytest.approx(min(history["validation_loss"]), rel=1e-5)


def test_monitor_a_metric_upwards():
    x, y = problem(20)
    history = fit(network(), (x, y), loss, epochs=5, lr=0.01, validation=(x, y), monitor="-error")
    assert history.best["validation_error"] == max(history["validation_error"])
    with pytest.raises(ValueError, match="is not measured"):
        fit(network(), (x, y), loss, epochs=1, monitor="accuracy")


def test_learning_rates_follow_the_schedule():
    for schedule, expected in (
        ("constant", [0.5, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 2 / 3, 1 / 3]),
        ("cosine", [0.5, 1, 1, 0.75, 0.25]),
    ):
        history = fit(nn.Linear(3, 1), problem(8), loss, epochs=5, batch_size=8, lr=1.0, schedule=schedule, warmup=2)
        assert history["lr"] == pytest.approx(expected), schedule


class Careful(nn.Module):
    def __init__(self):
        super().__init__()
        self.slow, self.fast = nn.Parameter(torch.ones(2, 2)), nn.Linear(2, 2)

    def parameter_groups(self, lr, weight_decay):
        return [{"params": [self.slow], "lr": min(lr, 1e-3), "weight_decay": 0.0}, {"params": self.fast.parameters()}]


def test_parameter_groups_are_collected_from_the_tree():
    module = nn.ModuleList([Careful(), nn.LayerNorm(2), nn.Linear(2, 2), nn.Linear(2, 2)])
    module[3].weight.requires_grad_(False)
    groups = parameter_groups(module, 0.1, 0.01)
    settings = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert settings[id(module[0].slow)] == (1e-3, 0.0)
    assert settings[id(module[0].fast.bias)] == (0.1, 0.01)
    assert settings[id(module[1].weight)] == (0.1, 0.0)
    assert settings[id(module[2].weight)] == (0.1, 0.01)
    assert id(module[3].weight) not in settings
    assert len(settings) == len([p for p in module.parameters() if p.requires_grad])


def test_divergence_is_said():
    with pytest.raises(Diverged, match="lower lr"):
        fit(nn.Linear(3, 1), problem(), lambda m, x, y: m(x).sum() * float("nan"), epochs=2)


@pytest.mark.parametrize(("data", "options"), [
    (problem(), {}), (problem(), {"epochs": 1, "steps": 1}), (problem(), {"epochs": 0}),
    (problem(), {"epochs": 1, "patience": 2}),
    (problem(), {"epochs": 1, "schedule": "step"}), (problem(), {"epochs": 1, "batch_size": 0}),
    ((torch.ones(3), torch.ones(4)), {"epochs": 1}), (iter([problem()]), {"epochs": 1}), ([], {"epochs": 1}),
    (lambda generator: problem(), {"epochs": 1}), (problem(), {"epochs": 1, "warmup": -1}),
])  # fmt: skip
def test_bad_arguments_are_refused(data, options):
    with pytest.raises(ValueError):
        fit(network(), data, loss, **options)


WORKER = """
    from torch import nn
    from torch.nn import functional as F
    from gramian.optim import fit

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(29, 3, generator=generator)
    y = x.sum(1)
    seen = []

    def loss(module, x, y):
        seen.append(x[:, 0].tolist())
        return F.mse_loss(module(x)[:, 0], y)

    history = fit(module, (x, y), loss, epochs=4, batch_size=7, lr=0.01, device="cpu", validation=(x[:9], y[:9]))
    report(weights=torch.cat([p.detach().flatten() for p in module.parameters()]).tolist(),
           loss=history["loss"], validation=history["validation_loss"], seen=seen)
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    (one,), (first, second) = (launch(WORKER, tmp_path / str(count), count) for count in (1, 2))
    assert (one["world"], one["backend"]) == (1, None)
    for rank, worker in enumerate((first, second)):
        assert worker["world"] == 2
        assert worker["backend"] == "gloo"
        assert worker["rank"] == rank
    assert first["weights"] == second["weights"]
    assert first["weights"] == pytest.approx(one["weights"], abs=1e-5)
    assert first["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert first["validation"] == pytest.approx(one["validation"], rel=1e-4)
    # the shards differ: 29 = 4 · 7 + 1, so that a whole batch is split 4 + 3 and the last one leaves a process idle
    assert [len(batch) for batch in first["seen"][:4]] == [4] * 4
    assert [len(batch) for batch in second["seen"][:4]] == [3] * 4
    for mine, others, whole in zip(first["seen"][:4], second["seen"][:4], one["seen"][:4], strict=True):
        assert not set(mine) & set(others)
        assert set(mine) | set(others) == set(whole)
