"""The shared byte models."""

import pytest
import torch

from gramian.models.language import byte_models


@pytest.mark.parametrize("kind", byte_models.KINDS)
def test_a_few_steps_learn_something_and_copies_are_apart(kind):
    model = byte_models.trained(kind, steps=8, channels=16, depth=1)
    again = byte_models.trained(kind, steps=8, channels=16, depth=1)
    untrained = byte_models.build(kind, 0, 16, 1).eval()
    ids = byte_models.corpus()[1][None, :129]
    with torch.no_grad():
        losses = [
            float(torch.nn.functional.cross_entropy(m(ids[:, :-1])[0], ids[0, 1:])) for m in (untrained, model, again)
        ]
    assert losses[1] < losses[0] - 0.3
    assert losses[1] == losses[2]
    assert model.backbone.embeddings.weight.data_ptr() != again.backbone.embeddings.weight.data_ptr()


def test_held_out_passages_are_others():
    training, held_out = byte_models.corpus()
    assert len(training) > 100_000
    assert len(held_out) >= 3_000
    piece = bytes(held_out[1000:1100].tolist())
    assert piece not in bytes(training.tolist())
    with pytest.raises(ValueError, match="kind='lstm'"):
        byte_models.build("lstm", 0)
