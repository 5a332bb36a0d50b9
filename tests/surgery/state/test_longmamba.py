"""Token filtering in global channels."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from gramian.data.synthetic.passkey import passkey
from gramian.linalg.scan import selective
from gramian.models.language.mamba2_lm import Mamba2LM
from gramian.models.language.mamba_lm import MambaLM
from gramian.surgery.state import longmamba


def model(kind):
    generator = torch.Generator().manual_seed(0)
    if kind == "mamba":
        return MambaLM(20, channels=8, depth=2, state_size=4, generator=generator).eval()
    return Mamba2LM(20, channels=8, depth=2, state_size=4, head_size=4, generator=generator).eval()


def texts(samples, length):
    return torch.randint(20, (samples, length), generator=torch.Generator().manual_seed(1))


def known_of(net, length=16):
    return longmamba.calibrate(net, texts(6, length))


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_calibration_is_the_definition(kind):
    net, ids = model(kind), texts(3, 9)
    first = next(iter(longmamba.calibrate(net, ids).values()))
    layer = net.backbone.layers[0]
    with torch.no_grad():
        x = layer.norm(net.backbone.embeddings(ids))
        if kind == "mamba":
            inner = F.silu(layer.mixer.conv1d(layer.mixer.in_proj(x).mT.chunk(2, 1)[0])[0]).mT
            delta = F.softplus(layer.mixer.dt_proj(layer.mixer.x_proj(inner)[..., : layer.mixer.dt_rank]))
            decay = torch.exp(-delta[..., None] * layer.mixer.A_log.exp()).prod(1).mean((0, 2))
        else:
            delta = F.softplus(layer.mixer.in_proj(x)[..., -4:] + layer.mixer.dt_bias)
            decay = torch.exp(-delta * layer.mixer.A_log.exp()).prod(1).mean(0)
    torch.testing.assert_close(first.decay, decay.double(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(first.total, delta.sum(1).mean(0).double(), atol=1e-6, rtol=1e-5)
    assert bool((first.profile.diff(dim=1) <= 0).all())
    assert not any("Watched" in type(m).__name__ for m in net.modules())


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_short_texts_and_c_of_one_change_nothing(kind):
    net, known = model(kind), known_of(model(kind))
    with torch.no_grad():
        for c, length in ((0.0, 16), (0.0, 5)):
            before = net(texts(2, length))
            with longmamba.enlarge(net, known, c):
                assert torch.equal(net(texts(2, length)), before)
        before = net(texts(2, 64))
        with pytest.warns(longmamba.NoGlobalChannel, match="c=1"), longmamba.enlarge(net, known, 1):
            assert torch.equal(net(texts(2, 64)), before)
        with longmamba.enlarge(net, known, 0.0):
            assert not torch.allclose(net(texts(2, 64)), before)
        assert torch.equal(net(texts(2, 64)), before)


def test_filtered_channels_see_their_kept_tokens_only():
    net = model("mamba")
    known = known_of(net)
    name = next(iter(known))
    c = float(known[name].decay.median())
    x = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(3))
    layer = net.backbone.layers[0].mixer
    with torch.no_grad():
        local = layer(x)[1].scan
        with longmamba.enlarge(net, known, c):
            scanned = net.backbone.layers[0].mixer(x)[1].scan
        inner = F.silu(layer.conv1d(layer.in_proj(x).mT.chunk(2, 1)[0])[0])
        dt, B, C = layer.x_proj(inner.mT).split((1, 4, 4), -1)
        delta = F.softplus(layer.dt_proj(dt)).mT
        bound, wide = longmamba.threshold(known[name].profile, 64), known[name].decay > c
        for d in range(16):
            kept = delta[0, d] >= bound[d] if wide[d] else torch.ones(64, dtype=torch.bool)
            assert bool(kept.all()) != bool(wide[d])
            alone = selective.selective_scan(
                inner[:, d : d + 1, kept], delta[:, d : d + 1, kept], -layer.A_log[d : d + 1].exp(), B[:, kept].mT,
                C[:, kept].mT, return_state=True,
            )[1]  # fmt: skip
            torch.testing.assert_close(scanned[:, d : d + 1], alone, atol=1e-6, rtol=1e-5)
    assert torch.equal(scanned[:, ~wide], local[:, ~wide])


def test_threshold_keeps_the_calibrated_sum():
    profile = torch.tensor([[8.0, 4.0, 2.0, 1.0]])
    assert float(longmamba.threshold(profile, 4)) == 0
    # stretched to 7: 8 6 4 3 2 1.5 1, of which 8 + 6 = 14 ≤ 15 < 14 + 4
    assert float(longmamba.threshold(profile, 7)) == 4
    even = torch.full((2, 10), 0.5)
    assert torch.equal(longmamba.threshold(even, 50), torch.tensor([0.5, 0.5]))
    assert float(longmamba.threshold(profile, 7, clamp=0.5)) < 4
    assert float(longmamba.threshold(torch.zeros(1, 3), 9)) == 0


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_steps_after_a_filtered_prompt_are_filtered_too(kind):
    net, ids = model(kind), texts(2, 40)
    with longmamba.enlarge(net, known_of(net), 0.0), torch.no_grad():
        _, states = net.read(ids)
        expected, _ = net.read(ids[:, :3], states)
        logits = []
        for t in range(3):
            out, states = net.step(ids[:, t], states)
            logits.append(out)
    torch.testing.assert_close(torch.stack(logits, 1), expected, atol=1e-5, rtol=1e-5)


def test_what_is_refused():
    net = model("mamba")
    known = known_of(net)
    with pytest.raises(ValueError, match="text 1 is padded"):
        longmamba.calibrate(net, texts(2, 4), torch.tensor([[True] * 4, [True, True, True, False]]))
    with pytest.raises(ValueError, match="texts of 1 tokens"):
        longmamba.calibrate(net, texts(2, 1))
    with pytest.raises(ValueError, match="no layer matches"):
        longmamba.calibrate(torch.nn.Linear(2, 2), texts(2, 4))
    with pytest.raises(ValueError, match="smallest given is -1"):
        longmamba.threshold(torch.tensor([[1.0, -1.0]]), 4)
    with pytest.raises(ValueError, match="clamp=2"):
        longmamba.threshold(torch.ones(1, 2), 4, clamp=2.0)
    with pytest.raises(ValueError, match="c=2"):
        longmamba.enlarge(net, known, 2)
    with pytest.raises(ValueError, match="was not calibrated"):
        longmamba.enlarge(net, {"elsewhere": next(iter(known.values()))}, 0.0)
    with warnings.catch_warnings(), longmamba.enlarge(net, known, 0.0, lengths=[32]):
        warnings.simplefilter("error")
        net(texts(1, 32))
        with pytest.raises(ValueError, match="no threshold for 40 tokens, only for 32"):
            net(texts(1, 40))


def test_passkeys_hide_one_value_and_ask_for_it():
    words = passkey(50, 12, values=4, noise=3, generator=torch.Generator().manual_seed(0))
    assert (words.letters, words.classes) == (9, 4)
    for row, target in zip(words.tokens, words.targets[:, -1], strict=True):
        place = int((row == 7).nonzero())
        assert int(row[place + 1]) == int(target)
        assert int((row < 4).sum()) == 1
        assert int(row[-1]) == 8
    assert bool((words.targets[:, :-1] == -100).all())
    with pytest.raises(ValueError, match="length=3"):
        passkey(1, 3)
