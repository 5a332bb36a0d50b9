import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian import optim
from gramian.optim.continual import FisherAnchor, decaying


def problem(seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    fisher = {"a": torch.rand(3, 2, generator=g, dtype=dtype), "b": torch.rand(4, generator=g, dtype=dtype)}
    start = {n: torch.randn(f.shape, generator=g, dtype=dtype) for n, f in fisher.items()}
    now = {n: torch.randn(f.shape, generator=g, dtype=dtype, requires_grad=True) for n, f in fisher.items()}
    return fisher, start, now


@settings(max_examples=8)
@given(st.integers(0, 1000), st.floats(0, 100))
def test_value_and_gradient_are_the_formulas(seed, strength):
    fisher, start, now = problem(seed)
    penalty = FisherAnchor(fisher, start, strength)(now)
    want = sum(
        strength * float(f) * (float(p) - float(o)) ** 2
        for n in fisher
        for f, p, o in zip(fisher[n].flatten(), now[n].detach().flatten(), start[n].flatten(), strict=True)
    )
    assert float(penalty.detach()) == pytest.approx(want, rel=1e-10, abs=1e-12)
    for name, gradient in zip(now, torch.autograd.grad(penalty, list(now.values())), strict=True):
        torch.testing.assert_close(gradient, 2 * strength * fisher[name] * (now[name] - start[name]).detach())


def test_gradcheck():
    fisher, start, now = problem()
    anchor = FisherAnchor(fisher, start, 0.7)
    assert torch.autograd.gradcheck(lambda a, b: anchor({"a": a, "b": b}), (now["a"], now["b"]))


def test_the_schedule_over_twenty_epochs():
    schedule = decaying(0.9, 0.2, 20)
    assert [schedule(t) for t in range(20)] == [max(0.2, 0.9 * (1 - t / 20)) for t in range(20)]
    fisher, start, now = problem()
    anchor = FisherAnchor(fisher, start, schedule)
    ratio = anchor(now, 10) / anchor(now, 0)
    assert float(ratio.detach()) == pytest.approx(0.5)


class Point(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(5, dtype=torch.float64))


def test_the_minimiser_of_a_quadratic_loss_is_the_closed_form():
    g = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=g, dtype=torch.float64)
    a, b = root @ root.T + torch.eye(5), torch.randn(5, generator=g, dtype=torch.float64)
    fisher, start = torch.rand(5, generator=g, dtype=torch.float64), torch.randn(5, generator=g, dtype=torch.float64)
    anchor, model = FisherAnchor({"theta": fisher}, {"theta": start}, 3.0), Point()
    tuner = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        tuner.zero_grad()
        loss = 0.5 * (model.theta - b) @ a @ (model.theta - b) + anchor(model)
        loss.backward()
        return loss

    tuner.step(closure)
    want = torch.linalg.solve(a + 6 * fisher.diag(), a @ b + 6 * fisher * start)
    torch.testing.assert_close(model.theta.detach(), want, atol=1e-6, rtol=0)


def test_in_the_fit_loop_the_time_advances_and_the_weights_stay():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=g)
    times = []

    def schedule(time):
        times.append(time)
        return 1e3

    model = nn.Linear(3, 1)
    before = model.weight.detach().clone()
    anchor = FisherAnchor.of(model, {"weight": torch.ones(1, 3)}, schedule)
    times.clear()

    def loss(module, inputs):
        return (module(inputs) - 5).square().mean(), {"one": torch.tensor(1.0)}

    history = optim.fit(
        model, [x], anchor.added_to(loss, steps_per_epoch=5), epochs=3, batch_size=8, lr=1e-3, validation=[x],
        show_progress=False,
    )  # fmt: skip
    assert times == [*[0] * 5, 1, *[1] * 5, 2, *[2] * 5, 3]
    assert {"anchor", "one"} <= set(history.rows[0])
    assert float((model.weight.detach() - before).abs().max()) < 5e-3
    assert float(model.bias.detach().abs().max()) > 0
    plain = anchor.added_to(lambda m, i: m(i).mean())(model, x)
    torch.testing.assert_close(plain, model(x).mean() + anchor(model))


def test_half_precision_is_added_up_in_single():
    value = FisherAnchor({"a": torch.ones(4096).bfloat16()}, {"a": torch.zeros(4096).bfloat16()})(
        {"a": torch.ones(4096).bfloat16()}
    )
    assert value.dtype == torch.float32
    assert float(value) == 4096


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fisher": {}}, "empty"),
        ({"fisher": {"a": torch.ones(2), "c": torch.ones(1)}}, "same parameters.*c"),
        ({"fisher": {"a": torch.ones(3)}}, "shape"),
        ({"fisher": {"a": torch.tensor([1.0, -1.0])}}, "negative or NaN"),
        ({"fisher": {"a": torch.tensor([1.0, float("nan")])}}, "negative or NaN"),
        ({"schedule": -1.0}, "must not be negative"),
        ({"schedule": lambda t: -0.5}, "must not be negative"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"fisher": {"a": torch.ones(2)}, "theta0": {"a": torch.zeros(2)}, "schedule": 1.0} | change
    with pytest.raises(ValueError, match=message):
        FisherAnchor(**arguments)


def test_names_and_shapes_of_another_network():
    with pytest.raises(ValueError, match=r"head\.weight"):
        FisherAnchor.of(nn.Linear(2, 2), {"head.weight": torch.ones(2, 2)})
    anchor = FisherAnchor.of(nn.Linear(2, 2), {"weight": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="another architecture"):
        anchor(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="names weight"):
        anchor({"other": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="steps_per_epoch"):
        anchor.added_to(lambda m: m, 0)
    with pytest.raises(ValueError, match="total"):
        decaying(total=0)
    with pytest.raises(ValueError, match="floor"):
        decaying(floor=-1.0)
