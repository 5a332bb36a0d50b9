"""The GGUF reader and the conversion of a Llama-like file, against files and a network made here."""

import json
import struct

import numpy as np
import pytest

from gramian.data.gguf import convert_llama, read_gguf

F32, Q4_1, Q8_0 = 0, 3, 8


def field(value):
    """The type and the bytes of a key's value."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, struct.pack("<Q", len(value.encode())) + value.encode()
    inner = [field(v) for v in value]
    return 9, struct.pack("<IQ", inner[0][0], len(inner)) + b"".join(b for _, b in inner)


def write_gguf(path, fields, tensors):
    """tensors: name -> (row-major shape, type, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    for key, value in fields.items():
        kind, raw = field(value)
        head += field(key)[1] + struct.pack("<I", kind) + raw
    offset, body = 0, b""
    for name, (shape, kind, raw) in tensors.items():
        head += field(name)[1] + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", kind, offset)
        body += raw + b"\0" * (-len(raw) % 32)
        offset = len(body)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + body)
    return path


def plain(array):
    return array.shape, F32, array.astype("<f4").tobytes()


def test_block_formats_against_a_loop_over_their_bytes(tmp_path):
    rng = np.random.default_rng(0)
    q4 = b"".join(struct.pack("<ee", rng.normal(), rng.normal()) + rng.bytes(16) for _ in range(4))
    q8 = b"".join(struct.pack("<e", rng.normal()) + rng.bytes(32) for _ in range(4))
    loose = rng.normal(size=5).astype(np.float32)
    tensors = {"a": ((2, 64), Q4_1, q4), "b": ((4, 32), Q8_0, q8), "c": plain(loose)}
    gguf = read_gguf(write_gguf(tmp_path / "t.gguf", {"k": "v", "n": [1, 2], "f": 0.5, "yes": True}, tensors))
    assert gguf.fields == {"GGUF.version": 3, "k": "v", "n": [1, 2], "f": 0.5, "yes": True}
    expected = []
    for block in range(4):
        scale, minimum, *quanta = struct.unpack("<ee16B", q4[20 * block : 20 * block + 20])
        nibbles = [q & 15 for q in quanta] + [q >> 4 for q in quanta]
        expected += [np.float32(scale) * np.float32(n) + np.float32(minimum) for n in nibbles]
    np.testing.assert_array_equal(gguf.tensor("a"), np.array(expected, dtype=np.float32).reshape(2, 64))
    expected = []
    for block in range(4):
        scale, *quanta = struct.unpack("<e32b", q8[34 * block : 34 * block + 34])
        expected += [np.float32(scale) * np.float32(n) for n in quanta]
    np.testing.assert_array_equal(gguf.tensor("b"), np.array(expected, dtype=np.float32).reshape(4, 32))
    np.testing.assert_array_equal(gguf.tensor("c"), loose)


def test_what_is_no_gguf_cut_off_or_of_another_format_is_refused(tmp_path):
    path = write_gguf(tmp_path / "t.gguf", {"key": "a long enough value"}, {"a": ((256,), 12, b"\0" * 144)})
    with pytest.raises(ValueError, match="block format 12"):
        read_gguf(path).tensor("a")
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(ValueError, match="cut off in its header"):
        read_gguf(path)
    path.write_bytes(b"PK" + whole)
    with pytest.raises(ValueError, match="not a GGUF file"):
        read_gguf(path)
    path = write_gguf(tmp_path / "c.gguf", {}, {"a": plain(np.ones(64))})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="cut off before the end of tensor 'a'"):
        read_gguf(path).tensor("a")


TOKENS = ["<|endoftext|>", "a", "b", "ab", "1", "2", "Ġ"]


def llama_fields(**changes):
    return {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 32,
        "llama.embedding_length": 16,
        "llama.feed_forward_length": 24,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": len(TOKENS),
        "llama.rope.dimension_count": 4,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
        **changes,
    }


def test_a_converted_network_equals_the_one_that_was_stored(tmp_path):
    transformers = pytest.importorskip("transformers", reason="pip install 'gramian[language]'")
    import torch

    config = transformers.LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    state = {k: v.numpy() for k, v in model.state_dict().items()}

    def side_by_side(weight, heads):  # the order in which GGUF keeps rotated pairs
        rows, columns = weight.shape
        return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)

    layer = "model.layers.0."
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
    }
    names = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    tensors |= {f"blk.0.{short}.weight": state[f"{layer}{long}.weight"] for short, long in names.items()}
    tensors["blk.0.attn_q.weight"] = side_by_side(state[f"{layer}self_attn.q_proj.weight"], 4)
    tensors["blk.0.attn_k.weight"] = side_by_side(state[f"{layer}self_attn.k_proj.weight"], 2)
    source = write_gguf(tmp_path / "t.gguf", llama_fields(), {k: plain(v) for k, v in tensors.items()})
    folder = tmp_path / "converted"
    folder.mkdir()
    convert_llama(source, folder)

    again = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[1, 5, 2, 3, 4, 6, 0, 2, 1]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("ab 12<|endoftext|>").input_ids == [3, 6, 4, 5, 0]
    assert json.loads((folder / "config.json").read_text())["rms_norm_eps"] == 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gemma"}, "architecture 'gemma'"),
        ({"tokenizer.ggml.pre": "other"}, "rule 'other'"),
    ],
)
def test_other_networks_are_not_converted(tmp_path, changes, message):
    source = write_gguf(tmp_path / "t.gguf", llama_fields(**changes), {"output_norm.weight": plain(np.ones(16))})
    with pytest.raises(ValueError, match=message):
        convert_llama(source, tmp_path)
