import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian import optim
from gramian.surgery.prune import iterative, scores


def network(seed=0):
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g)
    return model


def by_size(model, masks):
    return scores.magnitude(model)


def train(model, steps=5):
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 6, generator=g), torch.randint(3, (32,), generator=g)
    optim.fit(
        model, [x, y], lambda m, a, b: F.cross_entropy(m(a), b), steps=steps, weight_decay=0.1, show_progress=False
    )


@settings(max_examples=12)
@given(share=st.floats(0, 0.95), scope=st.sampled_from(iterative.SCOPES), seed=st.integers(0, 5))
def test_what_goes_is_lowest_and_as_many_as_asked(share, scope, seed):
    model = network(seed)
    found = scores.magnitude(model)
    masks = iterative.choose(found, share, scope=scope)
    sizes = {n: s.numel() for n, s in found.items()}
    gone = {n: int((~m).sum()) for n, m in masks.items()}
    if scope == "matrix":
        assert gone == {n: round(share * k) for n, k in sizes.items()}
        groups = [[n] for n in found]
    else:
        assert sum(gone.values()) == round(share * sum(sizes.values()))
        groups = [list(found)]
    for names in groups:
        out = torch.cat([found[n][~masks[n]] for n in names])
        stay = torch.cat([found[n][masks[n]] for n in names])
        assert not len(out) or not len(stay) or out.max() <= stay.min()


def test_a_share_is_of_what_stands_and_nothing_comes_back():
    model = network()
    first = iterative.prune_once(model, scores.magnitude(model), 0.5)
    second = iterative.prune_once(model, scores.magnitude(model), 0.5, masks=first)
    size = sum(m.numel() for m in first.values())
    assert iterative.sparsity(first) == round(0.5 * size) / size
    assert sum(int(m.sum()) for m in second.values()) == size - round(0.5 * size) - round(0.5 * (size // 2))
    assert not any((second[n] & ~first[n]).any() for n in first)
    assert all(model.get_parameter(n)[~m].eq(0).all() for n, m in second.items())


def test_held_weights_stay_zero_under_adam_with_decay_and_hooks_go():
    model = network()
    masks = iterative.choose(scores.magnitude(model), 0.6)
    free = copy.deepcopy(model)
    with iterative.Held(model, masks):
        train(model)
        assert all(model.get_parameter(n)[~m].eq(0).all() for n, m in masks.items())
        assert any(bool(model.get_parameter(n)[m].ne(free.get_parameter(n)[m]).any()) for n, m in masks.items())
    train(model)
    assert any(model.get_parameter(n)[~m].ne(0).any() for n, m in masks.items())
    with pytest.raises(RuntimeError), iterative.Held(model, masks):
        raise RuntimeError
    assert not any(p._backward_hooks for p in model.parameters())


def test_rewinding_starts_each_training_from_the_start():
    model, seen = network(), []
    start = copy.deepcopy(model.state_dict())

    def spy(module):
        seen.append({n: p.detach().clone() for n, p in module.named_parameters()})
        train(module)

    done = iterative.iterative_prune(model, spy, by_size, 3, 0.25, rewind=start)
    assert len(seen) == 4
    for cycle, at in zip(done, seen[1:], strict=True):
        for name, tensor in at.items():
            want = start[name] * cycle.masks[name] if name in cycle.masks else start[name]
            assert torch.equal(tensor, want)
    assert [round(103 * (1 - c.sparsity)) for c in done] == [77, 58, 44]


def test_without_rewinding_the_trained_weights_go_on_and_each_matrix_gives_its_share():
    model, seen = network(), []

    def spy(module):
        seen.append(module[0].weight.detach().clone())
        train(module)
        seen.append(module[0].weight.detach().clone())

    done = iterative.iterative_prune(model, spy, by_size, 2, 0.25, scope="matrix")
    assert torch.equal(seen[2], seen[1] * done[0].masks["0.weight"])
    assert [int(m.sum()) for m in done[0].masks.values()] == [36, 30, 11]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: iterative.choose(s, 1.0), "share"),
        (lambda s: iterative.choose(s, 0.5, scope="layer"), "scope"),
        (lambda s: iterative.choose({}, 0.5), "nothing"),
        (lambda s: iterative.choose(s, 0.5, masks={"w": torch.ones(2, 2, dtype=torch.bool)}), "name different"),
        (lambda s: iterative.choose({"w": torch.tensor([[1.0, torch.nan]])}, 0.5), "finite"),
        (lambda s: iterative.choose(s, 0.0, count=1000), "1000"),
        (lambda s: iterative.choose(s, 0.0, count=1, scope="matrix"), "global"),
        (lambda s: iterative.apply_masks(network(), {"7.weight": torch.ones(2, 2, dtype=torch.bool)}), "7.weight"),
        (lambda s: iterative.apply_masks(network(), {"0.weight": torch.ones(2, 2, dtype=torch.bool)}), "shape"),
        (lambda s: iterative.iterative_prune(network(), train, by_size, 0, 0.3), "cycles=0"),
        (lambda s: iterative.iterative_prune(network(), train, by_size, 1, 1.0), "share"),
        (
            lambda s: iterative.iterative_prune(network(), train, by_size, 1, 0.3, rewind={"x": torch.ones(1)}),
            "rewinding",
        ),
        (lambda s: iterative.all_kept(network(), "nothing*"), "nothing"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(scores.magnitude(network()))
