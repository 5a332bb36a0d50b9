import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian import optim
from gramian.objectives import alignguard
from gramian.objectives.alignguard import AlignGuardPenalty
from gramian.surgery.adapters import apply


def problem(seed=0, out=5, width=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    root, weight, delta = (torch.randn(out, n, generator=g, dtype=dtype) for n in (out, width, width))
    return root @ root.T, weight, delta


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_parts_are_orthogonal_and_make_up_the_update(seed, m):
    fisher, weight, delta = problem(seed)
    values, basis = alignguard.top_directions(fisher, m)
    torch.testing.assert_close(fisher @ basis, basis * values)
    critical, rest = alignguard.split(delta, basis)
    torch.testing.assert_close(critical + rest, delta)
    assert float((basis.T @ rest).abs().max()) < 1e-9
    eta = alignguard.importance(weight)
    assert 0 <= float(alignguard.geodesic_overlap(critical, rest, eta)) <= 1 + 1e-12
    assert float(alignguard.geodesic_overlap(delta, -2 * delta, eta)) == pytest.approx(1)


def test_gradcheck_and_strengths():
    fisher, weight, delta = problem()
    metric = weight.square()
    guard = AlignGuardPenalty({"a": fisher}, {"a": weight}, m=2, metric={"a": metric})
    delta.requires_grad_()
    assert torch.autograd.gradcheck(lambda d: guard({"a": d}), (delta,))
    parts = guard.parts({"a": delta})
    want = 0.25 * parts["alignment"] + 0.5 * parts["task"] + 0.1 * 0.5 * (parts["overlap"] + parts["geodesic"])
    torch.testing.assert_close(guard({"a": delta}), want)
    _, rest = alignguard.split(delta, alignguard.top_directions(fisher, 2)[1])
    torch.testing.assert_close(parts["task"], (metric * rest.square()).sum())


def test_a_zero_update_costs_nothing_and_has_a_finite_gradient():
    fisher, weight, _ = problem(dtype=torch.float32)
    zero = torch.zeros_like(weight, requires_grad=True)
    penalty = AlignGuardPenalty({"a": fisher}, {"a": weight}, m=2)({"a": zero})
    assert float(penalty.detach()) == 0
    (gradient,) = torch.autograd.grad(penalty, zero)
    assert float(gradient.abs().max()) == 0
    half = AlignGuardPenalty({"a": fisher}, {"a": weight.bfloat16()}, m=2)({"a": weight.bfloat16()})
    assert half.dtype == torch.float32


def test_in_the_fit_loop_the_update_leaves_the_protected_directions():
    model = nn.Sequential(nn.Linear(6, 4))
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 6, generator=g), torch.randn(64, 4, generator=g)
    fisher = torch.diag(torch.tensor([100.0, 0.0, 0.0, 0.0]))
    guard = AlignGuardPenalty({"0": fisher}, {"0": model[0].weight}, m=1, alignment=100, task=0, collision=0)
    attached = apply.attach_lora(model, "*", 3, generator=g)
    loss = guard.added_to(lambda m, a, b: (m(a) - b).square().mean(), lambda m: {"0": attached["0"].delta()})
    optim.fit(model, [x, y], loss, steps=60, lr=2e-2, show_progress=False)
    rows = attached["0"].delta().detach().norm(dim=1)
    assert float(rows[0]) < 0.05 * float(rows[1:].mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": 6}, "m=6 must lie between 1 and the layer's 5"),
        ({"m": 0}, "m=0"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": -0.1}, "alpha"),
        ({"alignment": -1.0}, "alignment"),
        ({"task": float("nan")}, "task"),
        ({"beta": float("inf")}, "beta"),
        ({"fisher": {"a": torch.eye(4)}}, "Fisher factor is"),
        ({"fisher": {"b": torch.eye(5)}}, "same layers"),
        ({"fisher": {"a": torch.ones(5, 5).triu()}}, "not symmetric"),
        ({"fisher": {"a": torch.full((5, 5), float("nan"))}}, "NaN"),
        ({"metric": {"a": -torch.ones(5, 4)}}, "metric"),
    ],
)
def test_bad_arguments(change, message):
    fisher, weight, _ = problem()
    arguments = {"fisher": {"a": fisher}, "weights": {"a": weight}, "m": 2} | change
    with pytest.raises(ValueError, match=message):
        AlignGuardPenalty(**arguments)


def test_updates_of_another_network():
    fisher, weight, delta = problem()
    guard = AlignGuardPenalty({"a": fisher}, {"a": weight}, m=2)
    with pytest.raises(ValueError, match="odd: a, b"):
        guard({"b": delta})
    with pytest.raises(ValueError, match="the update has shape"):
        guard({"a": delta[:, :2]})
