"""The Mamba-2 block."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.nn.state.mamba2 import GatedRMSNorm, Mamba2

SIZES = {"state_size": 6, "head_size": 4, "num_groups": 2}


def layer(**changes):
    return Mamba2(8, **(SIZES | changes), generator=torch.Generator().manual_seed(0))


def sequence(length=70, dtype=torch.float32):
    return torch.randn(2, length, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)


def by_steps(net, x, state=None):
    outputs = []
    for t in range(x.shape[1]):
        out, state = net.step(x[:, t], state)
        outputs.append(out)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("length", [1, 3, 70])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_steps_are_the_whole(length, dtype, bound):
    net, x = layer().to(dtype), sequence(length, dtype)
    y, last = net(x)
    stepped, stepped_last = by_steps(net, x)
    torch.testing.assert_close(stepped, y, atol=bound, rtol=bound)
    torch.testing.assert_close(stepped_last, last, atol=bound, rtol=bound)


@settings(max_examples=8)
@given(length=st.integers(2, 90), share=st.floats(0, 1), chunk=st.sampled_from([4, 16, 64]))
def test_a_sequence_may_be_cut_anywhere(length, share, chunk):
    net, x = layer(chunk=chunk).double(), sequence(length, torch.float64)
    cut = min(max(1, int(share * length)), length - 1)
    first, state = net(x[:, :cut])
    second, state = net(x[:, cut:], state)
    y, last = net(x)
    torch.testing.assert_close(torch.cat((first, second), 1), y, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(state, last, atol=1e-10, rtol=1e-10)


def test_the_layer_is_its_formula_head_by_head():
    net, x = layer().double(), sequence(9, torch.float64)
    with torch.no_grad():
        weight = dict(net.named_parameters())
        z, mixed, dt = (x @ weight["in_proj.weight"].T).split((16, 40, 4), -1)
        padded = torch.cat((torch.zeros(2, 3, 40, dtype=torch.float64), mixed), 1)
        taps = weight["conv1d.weight"][:, 0]
        mixed = torch.stack([(padded[:, t : t + 4] * taps.T).sum(1) for t in range(9)], 1) + weight["conv1d.bias"]
        mixed = mixed * torch.sigmoid(mixed)
        dt = torch.log1p(torch.exp(dt + weight["dt_bias"]))
        heads = []
        for h in range(4):
            xs, group = mixed[..., 4 * h : 4 * h + 4], h // 2
            B, C = (mixed[..., 16 + 12 * i + 6 * group : 22 + 12 * i + 6 * group] for i in (0, 1))
            state, outputs = torch.zeros(2, 6, 4, dtype=torch.float64), []
            for t in range(9):
                fade = torch.exp(-dt[:, t, h] * weight["A_log"][h].exp())[:, None, None]
                state = fade * state + B[:, t, :, None] * (dt[:, t, h, None] * xs[:, t])[:, None]
                outputs.append((state * C[:, t, :, None]).sum(1) + weight["D"][h] * xs[:, t])
            heads.append(torch.stack(outputs, 1))
        y = torch.cat(heads, -1) * z * torch.sigmoid(z)
        halves = [half / (half.square().mean(-1, keepdim=True) + 1e-5).sqrt() for half in y.chunk(2, -1)]
        expected = (torch.cat(halves, -1) * weight["norm.weight"]) @ weight["out_proj.weight"].T
        torch.testing.assert_close(net(x)[0], expected, atol=1e-10, rtol=1e-10)


def test_equals_transformers_mixer_with_its_weights():
    transformers = pytest.importorskip("transformers")
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = transformers.Mamba2Config(
        hidden_size=8, state_size=6, head_dim=4, num_heads=4, n_groups=2, num_hidden_layers=1, vocab_size=10,
        chunk_size=16,
    )  # fmt: skip
    theirs = Mamba2Mixer(config, 0).eval()
    ours = layer()
    ours.load_state_dict(theirs.state_dict())
    x = sequence()
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], theirs(x), atol=1e-5, rtol=1e-5)


def test_causal_and_trainable():
    net, x = layer(), sequence()
    changed = x.clone()
    changed[:, 40:] += 1
    y, z = net(x)[0], net(changed)[0]
    torch.testing.assert_close(y[:, :40], z[:, :40])
    assert not torch.allclose(y[:, 40], z[:, 40])
    y.pow(2).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in net.parameters())


def test_gradients_are_right():
    net = Mamba2(2, state_size=2, head_size=2, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    names = list(dict(net.named_parameters()))

    def run(x, *values):
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))[0]

    assert torch.autograd.gradcheck(run, (x, *net.parameters()))


def test_step_sizes_are_held_between_limits():
    net = layer(dt_limit=(0.05, 0.06))
    dt = net.step_sizes(torch.linspace(-20, 20, 8).view(1, 2, 4))
    assert float(dt.detach().min()) == pytest.approx(0.05)
    assert float(dt.detach().max()) == pytest.approx(0.06)
    x = sequence()
    torch.testing.assert_close(by_steps(net, x)[0], net(x)[0], atol=1e-5, rtol=1e-5)


def test_half_precision_keeps_its_type_and_a_wide_memory():
    net, x = layer().bfloat16(), sequence().bfloat16()
    y, state = net(x)
    assert y.dtype == torch.bfloat16
    assert state.memory.dtype == torch.float32
    torch.testing.assert_close(y.float(), layer()(sequence())[0], atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_size": 5}, "head_size=5 must divide"),
        ({"num_groups": 3}, "num_groups=3"),
        ({"conv_width": 0}, "conv_width=0"),
        ({"dt_limit": (1.0, 0.5)}, "dt_limit"),
    ],
)
def test_bad_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        layer(**changes)
    with pytest.raises(ValueError, match="groups=3"):
        GatedRMSNorm(4, 3)
