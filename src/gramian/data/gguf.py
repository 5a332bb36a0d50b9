"""Reads GGUF weight files, and rewrites a Llama-like one in the layout of Hugging Face.

Only what the catalogue's file needs: unquantized tensors and the two 32-value block formats Q4_1
(value = quantum · scale + minimum, 4 bits) and Q8_0 (value = quantum · scale, 8 bits). The format is
described by the ggml project's ``docs/gguf.md``.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

_MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCK = 32
_Q4_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("quanta", "u1", (_BLOCK // 2,))])
_Q8_0 = np.dtype([("scale", "<f2"), ("quanta", "i1", (_BLOCK,))])
_PLAIN = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
_BLOCKS = {3: _Q4_1, 8: _Q8_0}
_CONTROL_TOKEN = 3


@dataclass(frozen=True)
class GGUF:
    """A GGUF file: its key–value `fields`, and where each tensor lies (shape in row-major order, type, offset)."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]

    def tensor(self, name: str) -> Float32[np.ndarray, "*shape"]:
        """The tensor `name`, dequantized to float32.

        Raises:
            KeyError: there is no such tensor.
            ValueError: its block format is not one of those read here, or the file is cut off.
        """
        shape, kind, offset = self.tensors[name]
        count = int(np.prod(shape))
        if kind not in _PLAIN and kind not in _BLOCKS:
            raise ValueError(
                f"tensor {name!r} of {self.path.name} has block format {kind}; read here: F32, F16, Q4_1, Q8_0"
            )
        layout = _PLAIN.get(kind) or _BLOCKS[kind]
        records = count if kind in _PLAIN else count // _BLOCK
        if self.path.stat().st_size < offset + records * layout.itemsize:
            raise ValueError(f"{self.path} is cut off before the end of tensor {name!r}")
        raw = np.fromfile(self.path, dtype=layout, count=records, offset=offset)
        if kind in _PLAIN:
            return raw.astype(np.float32).reshape(shape)
        scale = raw["scale"].astype(np.float32)[:, None]
        if layout is _Q8_0:
            return (scale * raw["quanta"].astype(np.float32)).reshape(shape)
        low, high = raw["quanta"] & 0x0F, raw["quanta"] >> 4  # the block's first and second half
        quanta = np.concatenate([low, high], axis=1).astype(np.float32)
        return (scale * quanta + raw["minimum"].astype(np.float32)[:, None]).reshape(shape)


def read_gguf(path: Path) -> GGUF:
    """Read the header of a GGUF file (version 2 or 3, little endian).

    Raises:
        ValueError: not such a file, or cut off.
    """
    with open(path, "rb") as file:

        def take(code: str) -> Any:
            size = struct.calcsize("<" + code)
            if len(raw := file.read(size)) < size:
                raise ValueError(f"{path} is cut off in its header")
            return struct.unpack("<" + code, raw)[0]

        def text() -> str:
            size = take("Q")
            if len(raw := file.read(size)) < size:
                raise ValueError(f"{path} is cut off in its header")
            return raw.decode("utf-8")

        def value(kind: int) -> Any:
            if kind == _STRING:
                return text()
            if kind == _ARRAY:
                inner, count = take("I"), take("Q")
                return [value(inner) for _ in range(count)]
            if kind not in _SCALARS:
                raise ValueError(f"{path} has a field of unknown type {kind}")
            return take(_SCALARS[kind])

        if file.read(4) != _MAGIC or (version := take("I")) not in (2, 3):
            raise ValueError(f"{path} is not a GGUF file of version 2 or 3")
        num_tensors, num_fields = take("Q"), take("Q")
        fields: dict[str, Any] = {"GGUF.version": version}
        for _ in range(num_fields):
            key = text()
            fields[key] = value(take("I"))
        found = []
        for _ in range(num_tensors):
            name, dimensions = text(), take("I")
            shape = tuple(take("Q") for _ in range(dimensions))[::-1]  # stored fastest first
            found.append((name, shape, take("I"), take("Q")))
        alignment = int(fields.get("general.alignment", 32))
        start = -(-file.tell() // alignment) * alignment
    return GGUF(path, fields, {name: (shape, kind, start + offset) for name, shape, kind, offset in found})


_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert_llama(source: Path, folder: Path) -> None:
    """Rewrite the Llama-like GGUF `source` as ``model.safetensors``, ``config.json`` and tokenizer files in `folder`.

    Weights become float32. Rows of the query and key projections go back from GGUF's order (the two members
    of a rotated pair side by side) to Hugging Face's (first members of all pairs, then second members).

    Raises:
        ValueError: not a Llama-like GGUF file with a byte-level BPE tokenizer.
    """
    from safetensors.numpy import save_file

    gguf = read_gguf(source)
    f = gguf.fields
    if f.get("general.architecture") != "llama" or f.get("tokenizer.ggml.model") != "gpt2":
        raise ValueError(
            f"{source} holds architecture {f.get('general.architecture')!r} with tokenizer "
            f"{f.get('tokenizer.ggml.model')!r}; only 'llama' with 'gpt2' is converted"
        )
    heads = {"attn_q": f["llama.attention.head_count"], "attn_k": f["llama.attention.head_count_kv"]}
    weights = {}
    for name in gguf.tensors:
        stem, _, _ = name.removeprefix("blk.").rpartition(".weight")
        number, _, part = stem.partition(".")
        tensor = gguf.tensor(name)
        if part in heads:
            rows, columns = tensor.shape
            pairs = tensor.reshape(heads[part], rows // heads[part] // 2, 2, columns)
            tensor = pairs.swapaxes(1, 2).reshape(rows, columns)
        target = f"model.layers.{number}.{_LAYER[part]}" if part else _WHOLE[stem]
        weights[f"{target}.weight"] = np.ascontiguousarray(tensor)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tied = "lm_head.weight" not in weights
    for file, content in {
        "config.json": _config(f, tied=tied),
        "tokenizer.json": _tokenizer(f),
        "tokenizer_config.json": _tokenizer_config(f),
    }.items():
        (folder / file).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _config(f: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "vocab_size": f["llama.vocab_size"],
        "hidden_size": f["llama.embedding_length"],
        "intermediate_size": f["llama.feed_forward_length"],
        "num_hidden_layers": f["llama.block_count"],
        "num_attention_heads": f["llama.attention.head_count"],
        "num_key_value_heads": f["llama.attention.head_count_kv"],
        "head_dim": f["llama.rope.dimension_count"],
        "max_position_embeddings": f["llama.context_length"],
        "rms_norm_eps": float(f"{f['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # stored in single precision
        "rope_theta": f["llama.rope.freq_base"],
        "tie_word_embeddings": tied,
        "bos_token_id": f["tokenizer.ggml.bos_token_id"],
        "eos_token_id": f["tokenizer.ggml.eos_token_id"],
        "pad_token_id": f["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }


def _tokenizer(f: dict[str, Any]) -> dict[str, Any]:
    """A ``tokenizer.json``: byte-level BPE in which every digit is a token of its own (GGUF's "smollm" rule)."""
    if (rule := f.get("tokenizer.ggml.pre")) != "smollm":
        raise ValueError(f"the tokenizer splits text by the rule {rule!r}; only 'smollm' is converted")
    tokens, kinds = f["tokenizer.ggml.tokens"], f["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": t, **flags} for i, (t, k) in enumerate(zip(tokens, kinds)) if k == _CONTROL_TOKEN
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(tokens)},
            "merges": [m.split(" ") for m in f["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(f: dict[str, Any]) -> dict[str, Any]:
    tokens = f["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{key: tokens[f[f"tokenizer.ggml.{field}_token_id"]] for key, field in names.items()},
        "add_bos_token": f.get("tokenizer.ggml.add_bos_token", False),
        "model_max_length": f["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": f.get("tokenizer.chat_template"),
    }
