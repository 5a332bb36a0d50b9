"""The trained networks load whole and do what they were trained for."""

import builtins

import pytest
import torch

from gramian import data, models
from gramian.data import text
from gramian.lab import Missing


def needs(name: str) -> None:
    try:
        data.path(name)
    except Missing as missing:
        pytest.skip(str(missing))
    if name != "efficientnet_lite0":
        pytest.importorskip("transformers", reason="pip install 'gramian[language]'")


@pytest.mark.data
def test_smollm2_has_its_weights_and_reads_english():
    needs("smollm2_135m")
    model, tokenize = models.pretrained("SmolLM2-135M"), models.tokenizer("smollm2-135m")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert not model.training
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (9, 3, 1536)
    with torch.no_grad():
        ids = tokenize("The capital of France is", return_tensors="pt").input_ids
        assert tokenize.decode(model(ids).logits[0, -1].argmax()) == " Paris"
        ids = tokenize(text.passages()[0], return_tensors="pt").input_ids[:, :96]
        order = torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))
        prose, shuffled = (float(model(i, labels=i).loss) for i in (ids, ids[:, order]))
    assert prose < 4.0  # nats a token; log 49152 = 10.8
    assert shuffled > prose + 2.0


@pytest.mark.data
def test_smollm2s_tokenizer_takes_digits_one_by_one_and_gives_text_back():
    needs("smollm2_135m")
    tokenize = models.tokenizer("smollm2_135m")
    words = "Hello  world 123, don't!\n\n\tÜnïcode 日本"
    ids = tokenize(words).input_ids
    assert tokenize.decode(ids) == words
    assert {"1", "2", "3"} <= set(tokenize.convert_ids_to_tokens(ids))
    assert tokenize("<|im_start|>user").input_ids[0] == 1
    assert "<|im_start|>assistant" in tokenize.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )


@pytest.mark.data
def test_minilm_puts_like_sentences_together():
    needs("all_minilm_l6_v2")
    model = models.pretrained("all-minilm-l6-v2", attn_implementation="eager")
    assert sum(t.numel() for t in model.state_dict().values()) == 22_713_216
    sentences = [
        "A man is playing a guitar on stage.",
        "Someone plays the guitar at a concert.",
        "Stocks fell on Monday.",
    ]
    z = models.embed_sentences(sentences, model)
    assert z.shape == (3, 384)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
    likeness = z @ z.T
    assert likeness[0, 1] > 0.6
    assert likeness[0, 2] < 0.2
    alone = models.embed_sentences(sentences[:1], model)  # padding to longer neighbours changes nothing
    torch.testing.assert_close(alone, z[:1], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="no sentences"):
        models.embed_sentences([], model)


def test_wrong_names_and_options_are_refused():
    with pytest.raises(ValueError, match="'wine' is data, not a network; the trained networks are smollm2_135m"):
        models.pretrained("wine")
    with pytest.raises(ValueError, match="reads no text"):
        models.tokenizer("efficientnet-lite0")
    with pytest.raises(ValueError, match="takes no options; given: dropout"):
        models.pretrained("efficientnet-lite0", dropout=0.1)


def test_missing_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAMIAN_DATA", str(tmp_path))
    for name in models.PRETRAINED:
        with pytest.raises(Missing, match=f"gramian data fetch {name}"):
            models.pretrained(name)


@pytest.mark.data
def test_a_missing_extra_names_the_command(monkeypatch):
    if not data.is_here("smollm2_135m"):
        pytest.skip("bring it with `gramian data fetch smollm2_135m`")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "transformers":
            raise ImportError("No module named 'transformers'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Missing, match=r"pip install 'gramian\[language\]'"):
        models.pretrained("smollm2_135m")
