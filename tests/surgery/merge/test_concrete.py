import copy

import pytest
import torch
from torch import nn

from gramian.surgery.merge import arithmetic, concrete


def problem(seed=0, count=2):
    generator = torch.Generator().manual_seed(seed)
    nets = []
    for _ in range(count + 1):
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        nets.append(net)
    batches = [
        (torch.randn(16, 3, generator=generator), torch.randint(0, 2, (16,), generator=generator)) for _ in range(count)
    ]
    return nets[0], [n.state_dict() for n in nets[1:]], batches


def test_probabilities_and_rescaling():
    mask = concrete.ConcreteMask({"a": (20000,), "b": (7, 5)}, temperature=0.3, start=0.8)
    drawn = mask.sample(torch.Generator().manual_seed(0))
    assert abs(float((drawn["a"] > 0.5).float().mean()) - 0.68997) < 0.015
    for name, tensor in mask.rescaled(drawn).items():
        assert float(tensor.detach().sum()) == pytest.approx(drawn[name].numel(), rel=1e-5)


def test_gradients_of_the_merge():
    start = {"w": torch.randn(2, 3, dtype=torch.float64)}
    vectors = [{"w": torch.randn(2, 3, dtype=torch.float64)} for _ in range(2)]
    scales = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def run(scales, logits):
        m = logits.sigmoid()
        return concrete.merged_state(start, vectors, scales, {"w": m / m.mean()})["w"]

    assert torch.autograd.gradcheck(run, (scales, logits))
    rows = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(run(rows, logits), run(scales, logits))


def test_the_bilevel_value_is_the_loss_after_a_step():
    matrix = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    x = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    at = torch.tensor([1.0, 2.0], dtype=torch.float64)

    def loss(s):
        return (s - x) @ matrix @ (s - x)

    value, moved = concrete.bilevel(loss, at, 0.1)
    exact = at - 0.1 * 2 * matrix @ (at - x.detach())
    torch.testing.assert_close(moved, exact)
    torch.testing.assert_close(value.detach(), loss(exact).detach())
    assert torch.autograd.gradcheck(lambda x: concrete.bilevel(lambda s: (s - x) @ matrix @ (s - x), at, 0.1)[0], (x,))


@pytest.mark.parametrize("inner", ["none", "task", "layer"])
def test_learning_lowers_the_loss_and_leaves_the_networks(inner):
    model, experts, batches = problem()
    bits = copy.deepcopy(model.state_dict())
    found = concrete.concrete_merge(
        model, experts, batches, objective="supervised", inner=inner, steps=25, lr=0.1, inner_lr=0.05, soft=True
    )
    assert found.losses[-1] < found.losses[0]
    assert len(found.losses) == 25
    assert all(torch.equal(v, bits[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    plain = arithmetic.task_arithmetic(model, experts, 0.3)
    assert any(not torch.allclose(found.state[k], plain[k]) for k in plain)
    assert found.scales.shape == ((4, 2) if inner == "layer" else (2,))
    if inner == "none":
        assert set(found.scales.tolist()) == {found.scales[0].item()}


def test_a_merge_that_says_one_thing_is_flagged():
    model, experts, batches = problem()
    for state in experts:
        state["2.bias"] = torch.tensor([100.0, -100.0])
    with pytest.warns(concrete.Collapse, match="one class"):
        concrete.concrete_merge(model, experts, [b[0] for b in batches], steps=1)
    uniform = torch.zeros(4, 5)
    assert float(concrete.prediction_entropy(uniform)) == pytest.approx(torch.log(torch.tensor(5.0)).item())
    assert concrete.largest_share(torch.eye(4)) == 0.25


def test_what_is_refused():
    model, experts, batches = problem()
    for options, message in (
        ({"temperature": 0.0}, "temperature"), ({"inner": "all"}, "inner"), ({"steps": 0}, "steps"),
        ({"objective": "x"}, "objective"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            concrete.concrete_merge(model, experts, batches, **options)
    with pytest.raises(ValueError, match="at least two"):
        concrete.concrete_merge(model, experts[:1], batches)
    with pytest.raises(ValueError, match="only in network"):
        concrete.concrete_merge(model, [experts[0], {"0.weight": experts[1]["0.weight"]}], batches)
    mask = concrete.ConcreteMask({"a": (3,)})
    with pytest.raises(ValueError, match="zero everywhere"):
        mask.rescaled({"a": torch.zeros(3)})
    with pytest.raises(ValueError, match="at least one tensor"):
        concrete.ConcreteMask({})
