import pytest
import torch

from gramian.models.sequence import SequenceClassifier
from gramian.models.sequence.classifier import LAYERS, STEPPED, heads_of


def build(layer="s4d", **options):
    return SequenceClassifier(
        3,
        4,
        channels=8,
        depth=2,
        layer=layer,
        layer_options={"state_size": 8},
        generator=torch.Generator().manual_seed(0),
        **options,
    ).eval()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_changes_nothing(layer, pooling):
    model = build(layer, pooling=pooling)
    x = torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([x, torch.full((2, 5, 3), float("nan"))], 1)
    valid = torch.arange(16).expand(2, -1) < torch.tensor([[11], [7]])
    logits = model(padded, valid)
    assert torch.allclose(logits[0], model(x)[0], atol=1e-5)
    assert torch.allclose(logits[1], model(x[:, :7])[1], atol=1e-5)


def test_pooling_sees_every_step_and_the_seed_decides():
    assert all(torch.equal(a, b) for a, b in zip(build().parameters(), build().parameters()))
    model = build()
    x = torch.randn(1, 9, 3, requires_grad=True)
    model(x)[0, 0].backward()
    assert float(x.grad.abs().sum(-1).min()) > 0


def test_layers_of_the_callers_own():
    class Identity(torch.nn.Module):
        def forward(self, x, need_state=True):
            return x, None

    model = SequenceClassifier(2, 3, channels=4, layer=lambda channels, generator: Identity())
    assert model(torch.randn(5, 6, 2)).shape == (5, 3)


@pytest.mark.parametrize("options", [{"layer": "lstm"}, {"pooling": "max"}, {"channels": 0}])
def test_bad_arguments_are_refused(options):
    with pytest.raises(ValueError):
        SequenceClassifier(2, 3, **options)


def test_bad_masks_are_refused():
    x = torch.randn(2, 4, 3)
    for valid in (
        [[True, False, True, True]] * 2,
        [[False, False, False, False], [True] * 4],
        [[False, True, True, True]] * 2,
    ):
        with pytest.raises(ValueError):
            build()(x, torch.tensor(valid))


def test_only_lion_looks_ahead():
    x = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(2))
    for name, layer in LAYERS.items():
        made = layer(8, state_size=4, generator=torch.Generator().manual_seed(0)).eval()
        changed = x.clone()
        changed[:, -1] += 1
        gap = (made(x, need_state=False)[0] - made(changed, need_state=False)[0])[:, :-1].abs().max().detach()
        assert (float(gap) > 1e-3) == (name == "lion"), name
        assert getattr(made, "causal", True) == (name != "lion")


def test_state_size_bounds_the_keys_of_a_head():
    assert [heads_of(32, n) for n in (1, 7, 16, 32, 99)] == [32, 8, 2, 1, 1]
    for name in ("gla", "deltanet", "lion"):
        for size in (3, 8):
            layer = LAYERS[name](24, state_size=size).layer
            keys = layer.key_size if name == "gla" else 24 // layer.num_heads
            assert keys <= size
    with pytest.raises(ValueError, match="even"):
        LAYERS["gla"](7, state_size=4)
    with pytest.raises(ValueError, match="at least 1"):
        LAYERS["deltanet"](8, state_size=0)


@pytest.mark.parametrize("name", STEPPED)
def test_the_range_of_steps_reaches_the_layer(name):
    made = [LAYERS[name](8, state_size=4, dt_range=r, generator=torch.Generator().manual_seed(0))
            for r in ((1e-3, 1e-2), (0.1, 1.0))]  # fmt: skip
    slow, fast = (torch.cat([p.detach().reshape(-1).abs() for p in layer.parameters()]) for layer in made)
    assert not torch.equal(slow, fast)
