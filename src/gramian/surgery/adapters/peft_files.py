"""LoRA adapters in peft's file format: what is written here `peft` loads, and what peft writes loads here."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gramian.surgery.adapters.apply import Attached, adapters, attach
from gramian.surgery.adapters.base import Adapter
from gramian.surgery.adapters.lora import LoRALinear

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "load_peft", "replace_files", "save_peft"]

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# what peft can do beyond ΔW = scaling · B A; a folder that uses one of them is refused, never half read
_FOREIGN = (
    "use_dora", "lora_bias", "modules_to_save", "layer_replication", "target_parameters", "trainable_token_indices",
    "fan_in_fan_out", "use_qalora", "alora_invocation_tokens", "megatron_config", "arrow_config", "velora_config",
    "monteclora_config", "use_bdlora",
)  # fmt: skip


def save_peft(model: nn.Module, folder: str | Path, *, base_name: str | None = None, task: str | None = None) -> Path:
    """Write the model's LoRA adapters as a folder that ``peft.PeftModel.from_pretrained(base, folder)`` loads.

    Two files, `adapter_config.json` and `adapter_model.safetensors`; other files in the folder stay. Ranks and
    scalings that differ between layers go into ``rank_pattern`` and ``alpha_pattern``. An interruption
    leaves what was there before.

    Args:
        base_name: the base model's name or folder, for ``base_model_name_or_path``.
        task: peft's task type, such as ``"CAUSAL_LM"``; peft then adds generation and the like.

    Raises:
        ValueError: no adapter in the model, or NaN in one.
        TypeError: an adapter that is not low rank and has no place in this format.
    """
    found = adapters(model)
    if not found:
        raise ValueError("the model holds no adapter: attach_lora first, or save before merge() or undo()")
    tensors: dict[str, Tensor] = {}
    for name, adapter in found.items():
        if not isinstance(adapter, LoRALinear):
            raise TypeError(f"{name} is a {type(adapter).__name__}; peft's LoRA files hold LoRALinear only")
        for letter, factor in zip("AB", adapter.factors()):
            if not bool(torch.isfinite(factor).all()):
                raise ValueError(f"{name}: its {letter} holds NaN or infinity; nothing was written")
            tensors[f"{_PREFIX}{name}.lora_{letter}.weight"] = factor.cpu().contiguous().clone()
    return replace_files(Path(folder), _config(found, base_name, task), tensors)


def _config(found: dict[str, LoRALinear], base_name: str | None, task: str | None) -> dict[str, Any]:
    ranks = {name: len(adapter.factors()[0]) for name, adapter in found.items()}
    alphas = {name: adapter.scaling * ranks[name] for name, adapter in found.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    # peft matches a pattern's key against the end of a name and takes the first that fits: longest names first
    by_length = sorted(found, key=len, reverse=True)
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": max(adapter.dropout for adapter in found.values()),
        "target_modules": list(found),
        "rank_pattern": {n: ranks[n] for n in by_length} if len(set(ranks.values())) > 1 else {},
        "alpha_pattern": {n: _plain(alphas[n]) for n in by_length} if len(set(alphas.values())) > 1 else {},
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def replace_files(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write a configuration and its tensors into `folder`, both or neither.

    Both are written beside the old ones first; only then the names change hands, and an exception in
    between puts the old weights back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f".{os.getpid()}.part"
    fresh = {name: folder / f"{stem}.{name}" for name in (WEIGHTS_FILE, CONFIG_FILE)}
    old = folder / f"{stem}.old"
    replaced = False
    try:
        save_file(tensors, fresh[WEIGHTS_FILE], metadata={"format": "pt"})
        fresh[CONFIG_FILE].write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for path in fresh.values():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        if (folder / WEIGHTS_FILE).exists():
            os.link(folder / WEIGHTS_FILE, old)
        fresh[WEIGHTS_FILE].replace(folder / WEIGHTS_FILE)
        replaced = True
        fresh[CONFIG_FILE].replace(folder / CONFIG_FILE)
    except BaseException:
        if replaced and old.exists():
            old.replace(folder / WEIGHTS_FILE)
        elif replaced:
            (folder / WEIGHTS_FILE).unlink(missing_ok=True)
        raise
    finally:
        for path in (*fresh.values(), old):
            path.unlink(missing_ok=True)
    return folder


def load_peft(model: nn.Module, folder: str | Path, *, trainable: bool = False) -> Attached:
    """Attach the LoRA adapters of a peft folder to a model.

    Args:
        model: the base model, with the layer names that the adapter was made for.
        trainable: whether A and B go on being trained.

    Returns:
        as `gramian.surgery.adapters.apply.attach`; ``undo()`` takes the adapters out again.

    Raises:
        FileNotFoundError: no `adapter_config.json` or weights in the folder.
        ValueError: weights in a pickle, a damaged file, a kind of adapter that is not plain LoRA on linear layers,
            or an adapter for another model (a layer that this one lacks, or of another shape).
    """
    folder = Path(folder)
    config = _read_config(folder)
    factors = _read_factors(folder, config)
    layers = dict(model.named_modules())
    for name, (A, B) in factors.items():
        layer = layers.get(name)
        if layer is None:
            some = ", ".join([n for n, m in layers.items() if isinstance(m, nn.Linear)][:4])
            raise ValueError(f"{folder} adapts {name!r}, which this {type(model).__name__} lacks (it has {some}, …): "
                             "the adapter was made for another model")  # fmt: skip
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{folder} adapts {name}, which is a {type(layer).__name__}; only nn.Linear is supported")
        if layer.weight.shape != (B.shape[0], A.shape[1]) or A.shape[0] != B.shape[1]:
            raise ValueError(
                f"{name} has a {tuple(layer.weight.shape)} weight, the adapter's factors are {tuple(B.shape)} and "
                f"{tuple(A.shape)}: the adapter was made for another model"
            )

    def make(name: str, layer: nn.Module) -> Adapter | None:
        if name not in factors:
            return None
        A, B = factors[name]
        alpha = _scaling(config, name, len(A)) * len(A)
        adapter = LoRALinear(layer, len(A), alpha=alpha, dropout=float(config.get("lora_dropout", 0.0)))
        with torch.no_grad():
            adapter.A.copy_(A)
            adapter.B.copy_(B)
        return adapter

    attached = attach(model, [_exactly(name) for name in factors], make)
    if not trainable:
        for adapter in adapters(model).values():
            adapter.requires_grad_(False)
    return attached


def _exactly(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}: it is not a folder that peft saved")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{path} describes {kind!r}; only LORA adapters are read here")
    used = [key for key in _FOREIGN if config.get(key)]
    if config.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise ValueError(f"{path} uses {', '.join(used)}, which is more than ΔW = scaling · B A; load it with peft")
    if not isinstance(config.get("r"), int) or config["r"] < 1:
        raise ValueError(f"{path} gives no rank r ≥ 1")
    return config


def _read_factors(folder: Path, config: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    path = folder / WEIGHTS_FILE
    if not path.exists():
        pickled = sorted(p.name for p in folder.glob("adapter_model.*") if p.suffix in {".bin", ".pt", ".pth"})
        if pickled:
            raise ValueError(
                f"{folder / pickled[0]} is a pickle, which can run code when opened, and is not read: "
                f"save the adapter again with safe_serialization=True"
            )
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS_FILE}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, rest = key.removeprefix(_PREFIX).rpartition(".lora_")
        if not key.startswith(_PREFIX) or rest not in ("A.weight", "B.weight") or tensor.ndim != 2:
            raise ValueError(f"{path} holds {key!r} of shape {tuple(tensor.shape)}: not a factor of a linear layer")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path}: {key} holds NaN or infinity")
        factors.setdefault(name, {})[rest[0]] = tensor
    if not factors:
        raise ValueError(f"{path} holds no adapter")
    for name, pair in factors.items():
        if len(pair) != 2:
            raise ValueError(f"{path} holds only {next(iter(pair))} of {name}: the file is incomplete")
        rank = _matching(config.get("rank_pattern"), name, config["r"])
        if len(pair["A"]) != rank:
            raise ValueError(
                f"{path}: {name} has rank {len(pair['A'])}, {CONFIG_FILE} says {rank}; they do not belong together"
            )
    return {name: (pair["A"], pair["B"]) for name, pair in factors.items()}


def _matching(pattern: dict[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the first key that is the end of a layer's name, as peft reads its patterns."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def _scaling(config: dict[str, Any], name: str, rank: int) -> float:
    alpha = float(_matching(config.get("alpha_pattern"), name, config.get("lora_alpha", 8)))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
