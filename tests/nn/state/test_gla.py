"""The layer of gated linear attention."""

import pytest
import torch

from gramian.linalg.scan import matrix_state
from gramian.nn.state.gla import GATES, GatedLinearAttention, GLABlock


def layer(**settings):
    return GatedLinearAttention(16, num_heads=2, generator=torch.Generator().manual_seed(0), **settings)


def sequence(length=70):
    return torch.randn(2, length, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("conv_width", [0, 3])
def test_pieces_and_steps_are_the_whole(gate, conv_width):
    net, x = layer(gate=gate, conv_width=conv_width).double(), sequence().double()
    y, last = net(x)
    first, state = net(x[:, :2])
    second, state = net(x[:, 2:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), y)
    torch.testing.assert_close(state, last)
    state, outputs = None, []
    for t in range(70):
        out, state = net.step(x[:, t], state)
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs, 1), y)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("gate", GATES)
def test_causal_and_trainable(gate):
    net = GLABlock(16, 2, gate, conv_width=2, generator=torch.Generator().manual_seed(0))
    x = sequence()
    changed = x.clone()
    changed[:, 40:] += 1
    y, z = net(x)[0], net(changed)[0]
    torch.testing.assert_close(y[:, :40], z[:, :40])
    assert not torch.allclose(y[:, 40], z[:, 40])
    y.pow(2).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in net.parameters())


def test_decays_are_what_the_formula_says():
    x = sequence()
    net = layer(temperature=4.0)
    assert net.gk_proj is not None
    alpha = torch.sigmoid(net.gk_proj(x)) ** 0.25
    assert net.log_decays(x).shape == (2, 2, 70, 4)
    torch.testing.assert_close(net.log_decays(x).exp(), alpha.unflatten(-1, (2, 4)).transpose(1, 2))
    head = layer(gate="head")
    assert head.gk_proj is not None
    torch.testing.assert_close(head.log_decays(x).exp(), (torch.sigmoid(head.gk_proj(x)) ** (1 / 16)).mT)
    torch.testing.assert_close(layer(gate="constant").log_decays(x).exp(), torch.tensor([31 / 32, 63 / 64]))
    assert layer(gate="none").log_decays(x) is None


@pytest.mark.parametrize("gate", GATES)
def test_the_layer_hands_its_decays_to_the_scan(gate, monkeypatch):
    seen = []
    scan = matrix_state.matrix_state_scan
    monkeypatch.setattr(
        matrix_state, "matrix_state_scan", lambda q, k, v, g, **s: seen.append(g) or scan(q, k, v, g, **s)
    )
    net, x = layer(gate=gate), sequence()
    net(x)
    if gate == "none":
        assert seen == [None]
    else:
        torch.testing.assert_close(seen[0], net.log_decays(x))


@pytest.mark.parametrize(("channels", "heads"), [(64, 4), (1024, 4), (48, 3)])
def test_parameters_are_four_squares_and_a_small_gate(channels, heads):
    count = sum(p.numel() for p in GatedLinearAttention(channels, heads).parameters())
    gate = 16 * channels + 16 * channels // 2 + channels // 2
    assert count == 4 * channels**2 + gate + channels // heads


def test_state_is_float32_in_half_precision():
    net, x = layer().bfloat16(), sequence().bfloat16()
    y, state = net(x)
    assert (y.dtype, state.memory.dtype) == (torch.bfloat16, torch.float32)
    again, _ = net(x, state)
    assert bool(again.isfinite().all())


def test_bad_settings_are_refused():
    for settings, message in (
        ({"gate": "soft"}, "gate='soft' is unknown"),
        ({"gate_rank": 0}, "gate_rank=0"),
        ({"temperature": 0}, "temperature=0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"conv_width": -1}, "conv_width=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(**settings)
    for channels, heads in ((16, 3), (10, 5 + 5), (0, 1), (8, 0)):
        with pytest.raises(ValueError, match="must be a multiple of"):
            GatedLinearAttention(channels, heads)
    with pytest.raises(ValueError, match="expansion=0"):
        GLABlock(16, 2, expansion=0)
