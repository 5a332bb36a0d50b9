import pytest
import torch

from gramian.models.sequence import SequenceClassifier
from gramian.models.sequence.classifier import LAYERS


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
