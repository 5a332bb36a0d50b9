"""Language models over matrix states: one token at a time as at once, folders that load again, causality."""

import pytest
import torch

from gramian.models.language.linear_attention_lm import LinearAttentionLM, Perceptron


def build(mixer, **more):
    generator = torch.Generator().manual_seed(0)
    return LinearAttentionLM(mixer, 50, channels=16, depth=2, num_heads=2, generator=generator, **more).eval()


@pytest.mark.parametrize("mixer", ["gla", "delta_net"])
def test_steps_pieces_and_the_whole_agree(mixer):
    model, ids = build(mixer), torch.randint(0, 50, (2, 21))
    with torch.no_grad():
        whole = model(ids)
        first, states = model.read(ids[:, :9])
        second, _ = model.read(ids[:, 9:], states)
        assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-5)
        states = model.initial_states(2)
        for t in range(21):
            logits, states = model.step(ids[:, t], states)
            assert torch.allclose(logits, whole[:, t], atol=1e-5)
        changed = ids.clone()
        changed[:, 12] = (changed[:, 12] + 1) % 50
        assert torch.equal(model(changed)[:, :12], whole[:, :12])
        assert not torch.allclose(model(changed)[:, 12:], whole[:, 12:])


@pytest.mark.parametrize("mixer", ["gla", "delta_net"])
def test_generation_is_the_same_with_and_without_a_cache_and_after_saving(mixer, tmp_path):
    model, ids = build(mixer, tied=False, end_tokens=(3,)), torch.randint(4, 50, (2, 5))
    text = model.generate(ids, 12, end_tokens=())
    assert torch.equal(text, model.generate(ids, 12, cached=False, end_tokens=()))
    model.to_huggingface(tmp_path)
    again = LinearAttentionLM.from_huggingface(tmp_path)
    assert again.config() == model.config()
    assert torch.equal(again.generate(ids, 12, end_tokens=()), text)


def test_bad_input():
    with pytest.raises(ValueError, match="'attention' is not one of gla, delta_net"):
        build("attention")
    with pytest.raises(ValueError, match="no unit left"):
        Perceptron(2, 0.1)
