import pytest
import torch

from gramian.linalg.scan import dplr
from gramian.nn.state import S4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("length", [None, 20, 33])
def test_convolution_steps_and_pieces_agree(length):
    layer = S4(5, 8, length=length, generator=generator())
    x = torch.randn(3, 20, 5, generator=generator(1))
    whole, last = layer(x)
    head, state = layer(x[:, :7])
    tail, end = layer(x[:, 7:], state)
    assert torch.allclose(torch.cat([head, tail], 1), whole, atol=1e-5)
    assert torch.allclose(end, last, atol=1e-5)
    system, state, steps = layer.discrete(), None, []
    output = layer.output(system)
    for t in range(20):
        y, state = layer.step(x[:, t], state, system, output)
        steps.append(y)
    assert torch.allclose(torch.stack(steps, 1), whole, atol=1e-5)
    assert torch.allclose(state, last, atol=1e-5)
    assert torch.allclose(layer.step(x[:, 0])[0], whole[:, 0], atol=1e-5)
    assert layer(x[:, :1], need_state=False)[1] is None


@pytest.mark.parametrize("length", [None, 12])
def test_causal_and_differentiable(length):
    layer = S4(4, 8, length=length, generator=generator())
    x = torch.randn(2, 12, 4, generator=generator(1), requires_grad=True)
    y, state = layer(x)
    y[:, 5].sum().backward()
    assert float(x.grad[:, 6:].abs().max()) < 1e-6
    assert float(x.grad[:, :6].abs().min(1).values.max()) > 0
    missing = [name for name, p in layer.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert missing == []
    x.grad = None
    layer(x)[1].abs().sum().backward()
    assert float(x.grad.abs().max()) > 0


def test_a_fixed_length_starts_as_the_same_function():
    free, fixed = S4(3, 16, generator=generator(2)), S4(3, 16, length=50, generator=generator(2))
    assert torch.allclose(free.kernel(50), fixed.kernel(50), atol=1e-5)
    assert torch.allclose(free.kernel(20), fixed.kernel(20), atol=1e-5)
    assert torch.allclose(torch.view_as_complex(free.C.detach()).cdouble(), fixed.output().detach(), atol=1e-2)
    assert not torch.allclose(free.C, fixed.C, atol=1e-2)


def test_longer_than_folded_is_refused():
    layer = S4(3, 8, length=16)
    assert layer(torch.randn(1, 16, 3))[0].shape == (1, 16, 3)
    with pytest.raises(ValueError, match="length=17 or more"):
        layer(torch.randn(1, 17, 3))


def test_stays_stable_for_any_parameters():
    layer = S4(6, 8, generator=generator(3))
    with torch.no_grad():
        for parameter in (layer.A_real, layer.A_imag, layer.P):
            parameter.add_(3 * torch.randn(parameter.shape, generator=generator(4)))
    power = layer.discrete().dense()[0]
    assert float(torch.linalg.eigvals(power.detach()).abs().max()) < 1


def test_parameter_groups_slow_down_the_system():
    layer = S4(4, 8)
    groups = layer.parameter_groups(0.01, 0.1)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in layer.parameters())
    assert groups[0]["lr"] == 1e-3
    assert groups[0]["weight_decay"] == 0
    assert {id(p) for p in groups[0]["params"]} >= {id(layer.log_dt), id(layer.P), id(layer.B), id(layer.A_imag)}
    assert layer.parameter_groups(1e-4, 0.1)[0]["lr"] == 1e-4


def test_same_seed_same_layer_no_global_state_and_state_dict():
    before = torch.get_rng_state()
    first, second = S4(3, 8, generator=generator(9)), S4(3, 8, generator=generator(9))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert torch.equal(torch.get_rng_state(), before)
    other = S4(3, 8, generator=generator(10))
    other.load_state_dict(first.state_dict())
    x = torch.randn(1, 9, 3)
    assert torch.equal(other(x)[0], first(x)[0])


def test_double_precision_and_a_step_of_constant_cost():
    layer = S4(2, 8, mixing="none", generator=generator()).double()
    x = torch.randn(1, 30, 2, dtype=torch.float64, generator=generator(1))
    y, state = layer(x)
    assert y.dtype == torch.float64
    assert state.dtype == torch.complex128
    system = layer.discrete()
    assert isinstance(system, dplr.DiscreteLowRank)
    # nothing in the discretized system is states × states
    assert all(value.shape[1:].numel() <= 4 for value in vars(system).values())


@pytest.mark.parametrize("build", [
    lambda: S4(4, 7), lambda: S4(0), lambda: S4(4, length=0), lambda: S4(4, dt_range=(0.0, 1.0)),
    lambda: S4(4, mixing="all"),
])  # fmt: skip
def test_bad_arguments_are_refused(build):
    with pytest.raises(ValueError):
        build()
