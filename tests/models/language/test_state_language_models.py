"""MambaLM and Mamba2LM against transformers' own, and what they refuse."""

import json

import pytest
import torch

from gramian.models.language import Mamba2LM, MambaLM, generation, huggingface

transformers = pytest.importorskip("transformers")

CASES = {
    "mamba": (MambaLM, "Mamba", {"hidden_size": 16, "state_size": 4}),
    "mamba, untied, biases": (
        MambaLM,
        "Mamba",
        {"hidden_size": 24, "state_size": 6, "expand": 1, "conv_kernel": 3, "time_step_rank": 5, "use_bias": True,
         "use_conv_bias": False, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3},
    ),
    "mamba2": (Mamba2LM, "Mamba2", {"hidden_size": 16, "state_size": 8, "head_dim": 8, "num_heads": 4,
                                              "n_groups": 2, "chunk_size": 16}),
    "mamba2, tied, biases": (
        Mamba2LM,
        "Mamba2",
        {"hidden_size": 16, "state_size": 5, "head_dim": 4, "num_heads": 8, "n_groups": 1, "chunk_size": 8,
         "use_bias": True, "tie_word_embeddings": True, "conv_kernel": 2},
    ),
}  # fmt: skip


def both(case, **changes):
    """Transformers' model with random weights, and ours with the same."""
    kind, name, settings = CASES[case]
    config = getattr(transformers, f"{name}Config")(vocab_size=50, num_hidden_layers=2, **(settings | changes))
    torch.manual_seed(1)
    theirs = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():  # every parameter away from its start
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return theirs, kind.from_huggingface(theirs)


def prompt(batch=2, length=21):
    return torch.randint(3, 50, (batch, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case):
    theirs, ours = both(case)
    for length in (1, 2, 21):
        ids = prompt(length=length)
        with torch.no_grad():
            torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_greedy_text_equals_transformers_token_for_token(case):
    theirs, ours = both(case, eos_token_id=None)
    ids = prompt()
    expected = theirs.generate(ids, max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(ids))
    assert torch.equal(ours.generate(ids, max_new_tokens=6), expected)
    assert torch.equal(ours.generate(ids, max_new_tokens=6, cached=False), expected)


def test_texts_end_where_the_configuration_says():
    theirs, ours = both("mamba", eos_token_id=None)
    free = ours.generate(prompt(), 8)[:, 21:]
    end = int(free[0, 3])
    theirs.generation_config.eos_token_id = end
    theirs.generation_config.pad_token_id = 0
    ids = prompt()
    expected = theirs.generate(ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids))
    found = ours.generate(ids, 8, end_tokens=[end])
    assert torch.equal(found, expected)
    assert bool((found[0, 25:] == 0).all())
    ours.end_tokens = (end,)
    assert torch.equal(ours.generate(ids, 8), expected)
    assert torch.equal(ours.generate(ids, 8, end_tokens=()), torch.cat((ids, free), 1))


@pytest.mark.parametrize("case", ["mamba", "mamba2"])
def test_pieces_and_steps_are_the_whole(case):
    _, ours = both(case)
    ids = prompt()
    with torch.no_grad():
        whole, last = ours.read(ids)
        first, states = ours.read(ids[:, :5])
        second, states = ours.read(ids[:, 5:15], states)
        steps = []
        for t in range(15, 21):
            logits, states = ours.step(ids[:, t], states)
            steps.append(logits)
    torch.testing.assert_close(torch.cat((first, second, torch.stack(steps, 1)), 1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states, last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_folders_go_both_ways(case, tmp_path):
    theirs, ours = both(case)
    theirs.save_pretrained(tmp_path / "theirs")
    kind, name, _ = CASES[case]
    again = kind.from_huggingface(tmp_path / "theirs")
    ids = prompt()
    with torch.no_grad():
        assert torch.equal(again(ids), ours(ids))
        ours.to_huggingface(tmp_path / "ours")
        model = getattr(transformers, f"{name}ForCausalLM").from_pretrained(tmp_path / "ours").eval()
        torch.testing.assert_close(model(ids).logits, theirs(ids).logits)
        assert torch.equal(kind.from_huggingface(tmp_path / "ours")(ids), ours(ids))
    assert again.tied == ours.tied == (again.lm_head.weight is again.backbone.embeddings.weight)
    assert again.end_tokens == ours.end_tokens


def test_weights_in_several_files(tmp_path):
    theirs, ours = both("mamba")
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert (tmp_path / huggingface.INDEX).exists()
    ids = prompt()
    assert torch.equal(MambaLM.from_huggingface(tmp_path)(ids), ours(ids))
    with pytest.raises(ValueError, match="several files"):
        ours.to_huggingface(tmp_path)


def test_another_architecture_is_refused(tmp_path):
    theirs, _ = both("mamba2")
    theirs.save_pretrained(tmp_path)
    for source in (theirs, tmp_path):
        with pytest.raises(ValueError, match="of type 'mamba2'; MambaLM reads 'mamba'"):
            MambaLM.from_huggingface(source)
    with pytest.raises(TypeError, match="no Hugging Face configuration"):
        MambaLM.from_huggingface(torch.nn.Linear(2, 2))


def test_truncated_and_missing_files_are_refused(tmp_path):
    theirs, _ = both("mamba")
    theirs.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for size in (len(whole) // 2, len(whole) - 1, 4, 0):
        weights.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            MambaLM.from_huggingface(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        MambaLM.from_huggingface(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        MambaLM.from_huggingface(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="not the folder of a Hugging Face model"):
        MambaLM.from_huggingface(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        MambaLM.from_huggingface("somebody/mamba-130m")


def test_weights_that_do_not_fit_and_parts_not_built_are_refused(tmp_path):
    theirs, _ = both("mamba")
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"state_size": 5}))
    with pytest.raises(ValueError, match=r"A_log has shape \(32, 4\) instead of \(32, 5\)"):
        MambaLM.from_huggingface(tmp_path)
    path.write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"layers\.1.* is left over"):
        MambaLM.from_huggingface(tmp_path)
    path.write_text(json.dumps(config | {"hidden_act": "gelu"}))
    with pytest.raises(ValueError, match="hidden_act='gelu'"):
        MambaLM.from_huggingface(tmp_path)


def test_half_precision_equals_transformers():
    theirs, _ = both("mamba")
    theirs = theirs.bfloat16()
    ours = MambaLM.from_huggingface(theirs)
    ids = prompt()
    with torch.no_grad():
        found, expected = ours(ids), theirs(ids).logits
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected.float(), atol=0.05, rtol=0.05)


def test_bad_ids_are_refused():
    model = MambaLM(10, channels=8, depth=1)
    with pytest.raises(ValueError, match="from 0 to 10"):
        model(torch.tensor([[0, 10]]))
    with pytest.raises(ValueError, match="at least one token"):
        model(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="2 states for 1 layers"):
        model.read(torch.zeros(1, 2, dtype=torch.long), (None, None))
    with pytest.raises(ValueError, match="max_new_tokens=-1"):
        model.generate(torch.zeros(1, 2, dtype=torch.long), -1)
    with pytest.raises(ValueError, match="temperature=-1"):
        model.generate(torch.zeros(1, 2, dtype=torch.long), 1, temperature=-1)
    with pytest.raises(ValueError, match="0 layers"):
        MambaLM(10, channels=8, depth=0)


def test_drawn_tokens_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(4000, 3)
    draws = generation.choose(logits, 0.5, torch.Generator().manual_seed(0))
    shares = torch.bincount(draws, minlength=3) / 4000
    torch.testing.assert_close(shares, (logits[0] / 0.5).softmax(0), atol=0.03, rtol=0)
    assert bool((generation.choose(1e30 * logits[:5], 1e-6, torch.Generator()) == 2).all())
    model = Mamba2LM(20, channels=8, depth=1, state_size=4, head_size=4, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(3, 2, dtype=torch.long)
    drawn = [model.generate(ids, 8, temperature=2, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
