import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gramian.analysis import cost
from gramian.surgery.dynamic import FTWT


def network():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(6, 8, 3, bias=False), nn.ReLU6()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def batch(n=20):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.randint(3, (n,), generator=generator)


def loss(module, x, y):
    return F.cross_entropy(module(x), y)


def test_layers_are_found_and_everything_comes_back():
    model = network()
    before, names = copy.deepcopy(model.state_dict()), [type(m).__name__ for m in model.modules()]
    pruned = FTWT(model, mass=0.7)
    assert list(pruned.layers) == ["0.0", "1.0"]
    assert isinstance(pruned.layers["1.0"].norm, nn.Identity)
    pruned.fit(list(batch()), loss, epochs=2, show_progress=False)
    assert any(not torch.equal(v, before[k]) for k, v in pruned.layers["0.0"].conv.state_dict(prefix="0.0.").items())
    pruned.undo()
    assert [type(m).__name__ for m in model.modules()] == names
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if not k.startswith("4."))


def test_a_new_network_computes_what_it_did():
    model = network().eval()
    x, _ = batch()
    dense = model(x)
    FTWT(model, mass=0.7)
    assert torch.allclose(model(x), dense)


def test_predictors_learn_alone():
    model = network()
    x, y = batch(64)
    pruned = FTWT(model, mass=0.6, rate=30)
    first = pruned.measure(x)
    kept = {k: v.clone() for k, v in model.state_dict().items() if "predictor" not in k}
    flags = [p.requires_grad for p in model.parameters()]
    pruned.fit_predictors([x, y], epochs=15, lr=2e-3, show_progress=False)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in kept.items())
    assert [p.requires_grad for p in model.parameters()] == flags
    last = pruned.measure(x)
    assert [row["channels"] for row in first["layers"].values()] == [6, 8]
    assert last["share"] < 0.8 * first["share"]
    for name in pruned.layers:
        assert last["layers"][name]["agreement"] > first["layers"][name]["agreement"] + 0.15


def test_the_count_is_torch_s_count():
    model = network().eval()
    pruned = FTWT(model, mass=0.6)
    for layer in pruned.layers.values():
        nn.init.normal_(layer.predictor.linear.weight, std=3)
        nn.init.normal_(layer.predictor.linear.bias, std=2)
    x, _ = batch(5)
    for i in range(5):
        counted = cost.flops(model, x[i : i + 1], real=True)
        convolutions = sum(int(layer.fired.macs) for layer in pruned.layers.values())
        assert counted == convolutions + 1 * 6 + 6 * 8 + 8 * 3


def test_measuring_leaves_the_network_as_it_was():
    model = network().train()
    model[0][1].eval()
    pruned = FTWT(model, mass=0.7)
    pruned.use("dense")
    modes = [m.training for m in model.modules()]
    x, _ = batch(9)
    found = pruned.measure(x, "predicted", batch_size=4)  # 9 = 3 + 3 + 3: no image is left alone
    assert [m.training for m in model.modules()] == modes
    assert {layer.mode for layer in pruned.layers.values()} == {"dense"}
    assert found["logits"].shape == (9, 3)
    assert all(0 <= row["agreement"] <= 1 for row in found["layers"].values())
    assert 0 < pruned.forecast(x) < found["share"] <= 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)), "followed by nothing"),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.GELU()), "BatchNorm2d → GELU"),
        (nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.ReLU()), "2 groups"),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False), nn.ReLU()), "running stat"),
        (nn.ModuleDict({"conv": nn.Conv2d(1, 2, 1)}), "in a ModuleDict"),
        (nn.Sequential(nn.Linear(2, 2)), "no layer matches"),
    ],
)
def test_layers_that_cannot_be_masked(model, message):
    names = [type(m).__name__ for m in model.modules()]
    with pytest.raises(ValueError, match=message):
        FTWT(model, mass=0.5)
    assert [type(m).__name__ for m in model.modules()] == names


def test_bad_calls():
    pruned = FTWT(network(), mass=0.5)
    with pytest.raises(ValueError, match="mode="):
        pruned.use("none")
    with pytest.raises(ValueError, match="training mode"):
        pruned.mask_loss()
    with pytest.raises(ValueError, match="no image"):
        pruned.measure(torch.zeros(0, 1, 8, 8))
    with pytest.raises(ValueError, match="mass="):
        FTWT(network(), mass=2.0)
