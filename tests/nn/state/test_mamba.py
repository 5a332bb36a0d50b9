"""The Mamba block."""

import pytest
import torch

from gramian.nn.state.mamba import Mamba


def layer(**settings):
    return Mamba(8, state_size=4, generator=torch.Generator().manual_seed(0), **settings)


def sequence(length=70):
    return torch.randn(2, length, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("eig_range", [(0, 1), (-1, 1)])
def test_pieces_and_steps_are_the_whole(eig_range):
    net, x = layer(eig_range=eig_range), sequence()
    y, last = net(x)
    first, state = net(x[:, :2])  # shorter than the convolution
    second, state = net(x[:, 2:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), y)
    torch.testing.assert_close(state, last)
    state, outputs = None, []
    for t in range(70):
        out, state = net.step(x[:, t], state)
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs, 1), y)
    torch.testing.assert_close(state, last)


def test_causal_and_trainable():
    net, x = layer(), sequence()
    changed = x.clone()
    changed[:, 40:] += 1
    y, z = net(x)[0], net(changed)[0]
    assert torch.equal(y[:, :40], z[:, :40])
    assert not torch.allclose(y[:, 40], z[:, 40])
    y.pow(2).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in net.parameters())


def test_the_range_matters_and_is_checked():
    x = sequence()
    assert not torch.allclose(layer()(x)[0], layer(eig_range=(-1, 1))(x)[0])
    with pytest.raises(ValueError, match="eig_range"):
        layer(eig_range=(0, 2))
    with pytest.raises(ValueError, match="conv_width=0"):
        layer(conv_width=0)


def test_equals_transformers_mixer_with_its_weights():
    transformers = pytest.importorskip("transformers")
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = transformers.MambaConfig(hidden_size=8, state_size=4, num_hidden_layers=1, vocab_size=10)
    theirs = MambaMixer(config, 0).eval()
    ours = Mamba(8, state_size=4)
    ours.load_state_dict(theirs.state_dict())
    x = sequence()
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], theirs(x), atol=1e-5, rtol=1e-5)


def test_initial_weights_come_from_the_generator():
    a, b = layer().state_dict(), layer().state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
