"""A changed model as a folder: whole, without pickle, and loaded again as what it is.

Where all layers are plain ones the folder is what transformers' ``from_pretrained`` reads. Where layers were
replaced by factors or codes, ``change.json`` beside it says by which, and `load_changed` puts them in their
places before it reads the values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from gramian import models
from gramian.linalg.factor.quant.normal_float import BlockFormat
from gramian.models.opening import Opened, open_model
from gramian.nn.low_rank import LowRankLinear
from gramian.nn.quantized.int8 import Int8Linear
from gramian.nn.quantized.packed import QuantizedLinear
from gramian.nn.sparse.gated import SparseGatedMLP
from gramian.surgery.activation_sparsity import gated_mlps

CHANGE, WEIGHTS = "change.json", "model.safetensors"
_VERSION = 1


def _low_rank(layer: LowRankLinear) -> dict[str, Any]:
    return {"in_features": layer.in_features, "out_features": layer.out_features, "rank": layer.rank}


def _int8(layer: Int8Linear) -> dict[str, Any]:
    threshold = layer.threshold if math.isfinite(layer.threshold) else None  # JSON has no infinity
    shape = {"in_features": layer.in_features, "out_features": layer.out_features}
    return {**shape, "threshold": threshold, "keep_float": layer.weight_float is not None}


def _packed(layer: QuantizedLinear) -> dict[str, Any]:
    shape = {"in_features": layer.in_features, "out_features": layer.out_features}
    return {**shape, "rank": layer.rank, "fmt": asdict(layer.fmt)}


def _gated(layer: SparseGatedMLP) -> dict[str, Any]:
    return {"neurons": len(layer.thresholds)}


_LAYERS: dict[type, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    LowRankLinear: ("low-rank", _low_rank),
    Int8Linear: ("int8", _int8),
    QuantizedLinear: ("packed", _packed),
    SparseGatedMLP: ("gated", _gated),
}


def _make(model: nn.Module, name: str, kind: str, said: dict[str, Any], bias: bool) -> nn.Module:
    said = dict(said)
    if kind == "gated":
        parts = gated_mlps(model)[name]
        return SparseGatedMLP(parts.gate, parts.up, parts.down, parts.activation, torch.zeros(said["neurons"]))
    if kind == "low-rank":
        return LowRankLinear(**said, bias=bias)
    if kind == "int8":
        said["threshold"] = math.inf if said["threshold"] is None else said["threshold"]
        return Int8Linear(**said, bias=bias)
    if kind == "packed":
        return QuantizedLinear(**{**said, "fmt": BlockFormat(**said["fmt"])}, bias=bias)
    raise ValueError(f"{CHANGE} names a layer of kind {kind!r}, which this version does not know")


def changed_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model that are not plain torch ones but low rank, quantized or gated, by name."""
    return {name: m for name, m in model.named_modules() if type(m) in _LAYERS}


def save_changed(opened: Opened, folder: Path) -> int:
    """Write a model, its tokenizer and what was replaced in it into `folder`; returns the bytes of its weights.

    A model of transformers without replaced layers is written by its own ``save_pretrained``.

    Raises:
        ValueError: a model whose architecture cannot be built again from a name or a configuration.
    """
    model = opened.model
    folder.mkdir(parents=True, exist_ok=True)
    layers = changed_layers(model)
    config = getattr(model, "config", None)
    if hasattr(config, "save_pretrained"):
        if layers:
            config.architectures = [type(model).__name__]
            config.save_pretrained(folder)
        else:
            model.save_pretrained(folder)  # type: ignore[operator]
        if opened.tokenizer is not None:
            opened.tokenizer.save_pretrained(folder)
        base = {"transformers": type(model).__name__}
    elif opened.name.replace("-", "_") in models.PRETRAINED:
        base = {"bundled": opened.name}
    else:
        raise ValueError(
            f"{opened.name} was built by a function of yours; save its state dictionary yourself: its layers "
            "cannot be described without that function"
        )
    if layers or "bundled" in base:
        save_model(model, str(folder / WEIGHTS))
    described = {}
    for name, layer in layers.items():
        kind, say = _LAYERS[type(layer)]
        described[name] = {"kind": kind, "bias": getattr(layer, "bias", None) is not None, "with": say(layer)}
    record = {"version": _VERSION, "name": opened.name, "reads": opened.reads, **base, "layers": described}
    (folder / CHANGE).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return sum(f.stat().st_size for f in folder.glob("*.safetensors"))


def load_changed(folder: Path) -> Opened:
    """The model that `save_changed` wrote, in evaluation mode.

    Raises:
        ValueError: no such folder, a newer version, weights that do not fit or are cut short.
    """
    described = Path(folder) / CHANGE
    if not described.exists():
        raise ValueError(f"{folder} holds no changed model (no {CHANGE})")
    try:
        record = json.loads(described.read_text(encoding="utf-8"))
        version = record["version"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{described} is damaged: {error}") from None
    if version > _VERSION:
        raise ValueError(f"{described} is of version {version}, newer than this gramian reads ({_VERSION})")
    if not record["layers"] and "transformers" in record:
        found = open_model(str(folder))
        return Opened(record["name"], found.model, record["reads"], found.tokenizer)
    model, words = _empty(record, Path(folder))
    for name, said in record["layers"].items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _make(model, name, said["kind"], said["with"], said["bias"]))
    try:
        load_model(model, str(Path(folder) / WEIGHTS))
    except Exception as error:
        raise ValueError(f"the weights of {folder} cannot be read: {' '.join(str(error).split())[:300]}") from None
    return Opened(record["name"], model.eval(), record["reads"], words)


def _empty(record: dict[str, Any], folder: Path) -> tuple[nn.Module, Any]:
    """The architecture without its values."""
    if "bundled" in record:
        from gramian.models.vision.efficientnet_lite import efficientnet_lite0

        if record["bundled"] != "efficientnet-lite0":
            raise ValueError(f"{record['bundled']!r} is not a network that is built without a configuration")
        return efficientnet_lite0(), None
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    loader = transformers.AutoModelForCausalLM if record["reads"] == "text" else transformers.AutoModel
    model = loader.from_config(config, dtype=torch.float32)
    words = None
    if (folder / "tokenizer_config.json").exists():
        words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model, words
