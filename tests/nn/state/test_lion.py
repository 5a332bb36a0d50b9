"""The LION layer: its formula by hand, the grid, and what it refuses."""

import pytest
import torch

from gramian.nn.state.lion import DECAYS, LION


def by_hand(layer, x):
    """The equations head by head and pair by pair."""
    q, k, v = (x @ w.T + b for w, b in zip(layer.query_key_value.weight.chunk(3), layer.query_key_value.bias.chunk(3)))
    batch, length, channels = x.shape
    size = channels // layer.num_heads
    out = []
    for h in range(layer.num_heads):
        part = slice(h * size, (h + 1) * size)
        if layer.decay == "none":
            fq, fk = (torch.where(t > 0, t + 1, t.exp()) for t in (q[..., part], k[..., part]))
            a = torch.ones(batch, length, dtype=x.dtype)
        else:
            fq, fk = (t * torch.sigmoid(t) + 0.5 for t in (q[..., part], k[..., part]))
            fq, fk = fq / fq.norm(dim=-1, keepdim=True), fk / fk.norm(dim=-1, keepdim=True)
            if layer.decay == "constant":
                a = torch.sigmoid(layer.logits[h]).expand(batch, length)
            else:
                a = 1 - torch.sigmoid(x @ layer.decays.weight[h] + layer.decays.bias[h])
        y = torch.zeros(batch, length, size, dtype=x.dtype)
        for i in range(length):
            mask = [a[:, j:i].prod(-1) if j < i else a[:, i + 1 : j + 1].prod(-1) for j in range(length)]
            w = torch.stack(mask, -1) * torch.einsum("bd,bjd->bj", fq[:, i], fk)
            y[:, i] = torch.einsum("bj,bjd->bd", w / w.sum(-1, keepdim=True), v[..., part])
        out.append(y)
    return torch.cat(out, -1) @ layer.output.weight.T + layer.output.bias


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("form", ["full", "rnn", "chunk"])
def test_layer_is_its_formula(decay, form):
    layer = LION(8, 2, decay, form=form, chunk=4, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(2, 11, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(layer(x), by_hand(layer, x), rtol=1e-10, atol=1e-12)
        assert torch.allclose(layer(x.flip(1)).flip(1), layer(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("form", ["full", "rnn", "chunk"])
def test_both_ways_through_a_grid_are_symmetric_under_transposition(decay, form):
    """Rows and columns swap their parts when the grid is transposed and the two ways swap their decays."""
    layer = LION(8, 2, decay, grid=3, form=form, chunk=4, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        y = layer(x)
        if decay == "constant":
            layer.logits.copy_(layer.logits.roll(2))
        elif layer.decays is not None:
            layer.decays.weight.copy_(layer.decays.weight.roll(2, 0))
            layer.decays.bias.copy_(layer.decays.bias.roll(2, 0))
        turned = layer(x.view(2, 3, 3, 8).transpose(1, 2).reshape(2, 9, 8))
    assert torch.allclose(turned.view(2, 3, 3, 8).transpose(1, 2).reshape(2, 9, 8), y, rtol=1e-10, atol=1e-12)


def test_class_token_has_decay_one_and_goes_first():
    layer = LION(8, 2, "selective", grid=3, class_token=True, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(1))
    log_a = layer.log_decays(x)
    assert log_a.shape == (2, 4, 10)
    assert bool((log_a[..., 0] == 0).all() and (log_a[..., 1:] < 0).all())
    forms = []
    for form in ("full", "rnn", "chunk"):
        layer.form = form
        forms.append(layer(x))
    assert torch.allclose(forms[0], forms[1], atol=1e-5)
    assert torch.allclose(forms[0], forms[2], atol=1e-5)


def test_bad_sizes_are_refused():
    for arguments, match in (
        ({"channels": 9, "num_heads": 2}, "multiple of num_heads"),
        ({"channels": 8, "decay": "fast"}, "decay='fast'"),
        ({"channels": 8, "form": "loop"}, "form='loop'"),
        ({"channels": 8, "grid": 0}, "grid=0"),
    ):
        with pytest.raises(ValueError, match=match):
            LION(**arguments)
    with pytest.raises(ValueError, match="not a square of 3 × 3"):
        LION(8, 2, grid=3)(torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match="after a class token"):
        LION(8, 2, grid=3, class_token=True)(torch.zeros(1, 9, 8))
