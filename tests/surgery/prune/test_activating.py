import pytest
import torch
from torch import nn

from gramian.surgery.prune import activating, iterative


def started(model, seed=0):
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g)
    return model


def convolutions():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    )
    return started(model).eval()


def test_links_follow_norms_and_skip_layers_without_a_rectifier():
    x = torch.rand(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    model = convolutions()
    assert activating.links(model, x) == [
        activating.Link("0", "2", "1", True, True), activating.Link("3", "4", None, True, True)
    ]  # fmt: skip
    assert [k.inputs_are_positive for k in activating.links(model.train(), x - 1)] == [False, True]
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_scores_follow_the_sign_of_the_norm():
    model = convolutions()
    x = torch.rand(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    model[1].weight.data = torch.tensor([1.0, -1.0, 2.0, -2.0])
    found = activating.activating_scores(model, [x], iterative.all_kept(model))
    with torch.no_grad():
        dead = (model[:3](x) == 0).float().mean((0, 2, 3))
    for unit in range(4):
        w = model[0].weight[unit].detach()
        want = torch.where(w < 0 if unit % 2 == 0 else w > 0, dead[unit] * w.abs(), torch.tensor(-torch.inf))
        torch.testing.assert_close(found["0.weight"][unit], want)
    assert (found["6.weight"] == -torch.inf).all()


def test_removing_what_is_chosen_never_lowers_a_preactivation():
    model = convolutions()
    x = torch.rand(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    masks = iterative.all_kept(model)
    kept = activating.ActivatingWhilePruning([x], 0.1).choose(model, masks, 20, {})
    assert sum(int((~m).sum()) for m in kept.values()) == 20
    rises = []
    hidden = x
    with torch.no_grad():
        for layer in model[:4]:
            if isinstance(layer, nn.Conv2d):
                name = "0.weight" if layer is model[0] else "3.weight"
                out, bare = layer(hidden), nn.functional.conv2d(hidden, layer.weight * kept[name], layer.bias)
                if layer is model[0]:
                    out, bare = model[1](out), model[1](bare)
                rises.append(bare - out)
            hidden = layer(hidden)
    assert all(float(r.min()) > -1e-5 for r in rises)
    assert sum(float(r.sum()) for r in rises) > 1


def test_the_movement_rule_takes_negative_weights_that_moved_least():
    model = started(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    masks = iterative.all_kept(model)
    start = {n: torch.zeros_like(m, dtype=torch.float32) for n, m in masks.items()}
    kept = activating.ActivatingWhilePruning(rule="movement").choose(model, masks, 3, start)
    every = torch.cat([model[0].weight.detach().flatten(), model[2].weight.detach().flatten()])
    gone = torch.cat([every[:12].view(4, 3)[~kept["0.weight"]], every[12:].view(2, 4)[~kept["2.weight"]]])
    assert sorted(gone.tolist()) == sorted(every[every < 0].tolist())[-3:]


def test_when_it_takes_part():
    pro, lite = (activating.ActivatingWhilePruning([torch.ones(1, 2)], mode=m) for m in activating.MODES)
    assert [pro.active(c, 3) for c in range(3)] == [True, True, True]
    assert [lite.active(c, 3) for c in range(3)] == [False, False, True]


def test_bad_input_is_refused():
    model = started(nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)))
    masks, x = iterative.all_kept(model), torch.rand(5, 3)
    with pytest.raises(ValueError, match="exact zeros"):
        activating.ActivatingWhilePruning([x]).choose(model, masks, 1, {})
    model[1] = nn.ReLU()
    with pytest.raises(ValueError, match="never negative"):
        activating.activating_scores(model, [x - 1], masks)
    with pytest.raises(ValueError, match="lower the share"):
        activating.ActivatingWhilePruning([x]).choose(model, masks, 12, {})
    with pytest.raises(ValueError, match="empty"):
        activating.activating_scores(model, [], masks)
    with pytest.raises(ValueError, match="needs batches"):
        activating.ActivatingWhilePruning()
    for settings in ({"share": 0.0}, {"mode": "max"}, {"rule": "size"}):
        with pytest.raises(ValueError, match=r"share|mode"):
            activating.ActivatingWhilePruning([x], **settings)
    with pytest.raises(ValueError, match="must stay below"):
        iterative.iterative_prune(
            model, lambda m: None, lambda m, k: {}, 1, 0.1, partner=activating.ActivatingWhilePruning([x], 0.1)
        )
