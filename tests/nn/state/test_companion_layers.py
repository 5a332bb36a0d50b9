import pytest
import torch

from gramian.nn.state.companion import ClosedLoop, Companion


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("normalize", ["a", "all", "none"])
@pytest.mark.parametrize("kernels", [4, 2])
def test_forms_agree_and_the_state_goes_on(normalize, kernels):
    layer = Companion(4, 6, kernels=kernels, normalize=normalize, generator=generator()).double()
    if normalize == "none":
        layer.a.data *= 0.3
    x = torch.randn(2, 17, 4, dtype=torch.float64)
    with torch.no_grad():
        whole, last = layer(x)
        first, state = layer(x[:, :9])
        second, resumed = layer(x[:, 9:], state)
        steps, state = [], None
        for t in range(17):
            y, state = layer.step(x[:, t], state)
            steps.append(y)
    assert torch.allclose(torch.cat((first, second), 1), whole, atol=1e-10)
    assert torch.allclose(torch.stack(steps, 1), whole, atol=1e-10)
    assert torch.allclose(resumed, last, atol=1e-10)
    assert torch.allclose(state, last, atol=1e-10)


def test_the_closed_loop_is_the_layer_fed_with_its_own_predictions():
    layer = ClosedLoop(3, 5, generator=generator()).double()
    x = torch.randn(2, 12, 3, dtype=torch.float64)
    with torch.no_grad():
        outputs, inputs, state = layer.read(x)
        assert torch.allclose(outputs, layer(x)[0], atol=1e-10)
        assert torch.allclose(state, layer.last_state(x), atol=1e-10)
        assert torch.allclose(inputs[:, -1], (state * layer.K).sum(-1), atol=1e-10)
        rolled, y = [outputs[:, -1]], None
        for _ in range(6):
            y, state = layer.step((state * layer.K).sum(-1), state)
            rolled.append(y)
        assert torch.allclose(layer.rollout(layer.last_state(x), 7), torch.stack(rolled, 1), atol=1e-10)


def test_a_shift_remembers_the_last_inputs():
    layer = Companion(1, 3, shift=True, skip=False)
    x = torch.arange(6.0).view(1, 6, 1)
    assert layer.last_state(x).flatten().tolist() == [5, 4, 3]


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="dividing"):
        Companion(4, 6, kernels=3)
    with pytest.raises(ValueError, match="unknown"):
        Companion(4, normalize="b")
    with pytest.raises(ValueError, match="at least 1"):
        ClosedLoop(2, 3).rollout(torch.zeros(1, 2, 3), 0)
