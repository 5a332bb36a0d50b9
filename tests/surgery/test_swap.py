"""Replacing layers by name, and putting them back."""

import copy
import pickle

import pytest
import torch
from torch import nn

from gramian.surgery.swap import find, swap


class Doubled(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return 2 * self.layer(x)

    def merged(self):
        new = copy.deepcopy(self.layer)
        with torch.no_grad():
            new.weight.mul_(2)
            new.bias.mul_(2)
        return new


def network():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "body": nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))),
            "head": nn.Linear(4, 2),
        }
    )


def run(model, x):
    return model["head"](model["body"](x))


def double(name, layer):
    return Doubled(layer)


def test_nested_layers_are_replaced_and_come_back_bit_by_bit():
    model, x = network().eval(), torch.randn(5, 4)
    before, state = run(model, x), copy.deepcopy(model.state_dict())
    handle = swap(model, ["body.*", "head"], double, nn.Linear)
    assert handle.names == ("body.0", "body.2.0", "head")
    assert isinstance(model["body"][2][0], Doubled)
    assert not model["head"].training
    after = run(model, x)
    assert not torch.equal(before, after)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    after.sum().backward()
    optimizer.step()  # trains the very weights of the originals, which the replacements hold
    handle.undo()
    assert torch.equal(run(model, x), before)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values()))


def test_a_context_undoes_and_freezing_is_undone():
    model = network()
    with swap(model, "head", double) as handle:
        handle.originals["head"].weight.requires_grad_(False)
        handle.originals["head"].eval()
    assert model["head"].weight.requires_grad
    assert model["head"].training
    assert isinstance(model["head"], nn.Linear)


def test_merging_leaves_plain_layers_of_the_same_function():
    model, x = network().eval(), torch.randn(3, 4)
    handle = swap(model, "*", double, nn.Linear)
    wrapped = run(model, x)
    handle.merge()
    torch.testing.assert_close(run(model, x), wrapped)
    assert not any(isinstance(m, Doubled) for m in model.modules())
    with pytest.raises(TypeError, match="merged"):
        swap(model, "head", lambda name, layer: nn.Identity()).merge()


def test_tied_modules_and_weights_stay_tied():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": nn.Linear(4, 4)})
    model["c"].weight = shared.weight
    calls = []
    handle = swap(model, "a", lambda name, layer: calls.append(name) or Doubled(layer))
    assert calls == ["a"]
    assert model["a"] is model["b"][0]
    assert model["a"].layer.weight is model["c"].weight
    handle.undo()
    assert model["a"] is model["b"][0] is shared


def test_swapped_models_copy_and_pickle():
    model, x = network().eval(), torch.randn(3, 4)
    swap(model, "head", double)
    expected = run(model, x)
    assert torch.equal(run(copy.deepcopy(model), x), expected)
    assert torch.equal(run(pickle.loads(pickle.dumps(model)), x), expected)


def test_a_factory_may_decline_and_the_outermost_match_wins():
    model = network()
    handle = swap(model, "body.*", lambda name, layer: None if isinstance(layer, nn.ReLU) else nn.Identity())
    assert handle.names == ("body.0", "body.2")


def test_bad_patterns_and_factories_raise_and_leave_the_model_alone():
    model = network()
    with pytest.raises(ValueError, match=r"no layer matches decoder\.\*; some names are body"):
        find(model, "decoder.*")
    with pytest.raises(TypeError, match="returned a str"):
        swap(model, "*", lambda name, layer: "layer" if name == "head" else nn.Identity())
    assert isinstance(model["body"][0], nn.Linear)
