import pytest
import torch

from gramian.analysis.intervention.illusion import das
from gramian.analysis.intervention.last_token import LastToken
from gramian.analysis.intervention.patching import patch_subspace

transformers = pytest.importorskip("transformers")


def language_model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def test_it_says_what_the_whole_prompt_says_again_and_again():
    model = language_model()
    ids = torch.randint(0, 20, (5, 7), generator=torch.Generator().manual_seed(0))
    net = LastToken(model, ids)
    with torch.no_grad():
        for rows in (torch.arange(5), torch.tensor([3, 3, 0])):
            torch.testing.assert_close(net(rows), model(ids[rows]).logits[:, -1], rtol=1e-5, atol=1e-6)


def test_a_patch_at_the_last_token_is_that_of_the_whole_prompt():
    model = language_model()
    ids = torch.randint(0, 20, (6, 7), generator=torch.Generator().manual_seed(0))
    net, v = LastToken(model, ids), torch.linalg.qr(torch.randn(24, 2)).Q
    rows = torch.arange(3)
    with torch.no_grad():
        cheap = patch_subspace(net, "model.model.layers.1.mlp.down_proj", v, rows, rows + 3, side="in")
        whole = patch_subspace(model, "model.layers.1.mlp.down_proj", v, ids[:3], ids[3:], -1, side="in").logits[:, -1]
    torch.testing.assert_close(cheap, whole, rtol=1e-5, atol=1e-6)


def test_a_search_over_what_a_module_takes():
    net = LastToken(language_model(), torch.randint(0, 20, (8, 4), generator=torch.Generator().manual_seed(0)))
    rows, name = torch.arange(4), "model.model.layers.1.mlp.down_proj"

    def loss(logits):
        return logits[:, 3].mean()

    found = das(net, name, rows, rows + 4, loss, width=24, steps=40, side="in", generator=torch.Generator())
    with torch.no_grad():
        after = loss(patch_subspace(net, name, found, rows, rows + 4, side="in"))
        assert after < loss(net(rows))
        for seed in range(8):
            other = torch.randn(24, 1, generator=torch.Generator().manual_seed(seed))
            assert after < loss(patch_subspace(net, name, other / other.norm(), rows, rows + 4, side="in"))


def test_prompts_of_one_token_are_refused():
    with pytest.raises(ValueError, match="at least two tokens"):
        LastToken(language_model(), torch.zeros(2, 1, dtype=torch.long))
