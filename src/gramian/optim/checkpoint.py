"""Checkpoints without pickle: tensors and a JSON header in one safetensors file, replaced as a whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_COMPLEX = "#complex"


def save_checkpoint(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write `tensors` and the JSON-able `header`; an interruption leaves the earlier file intact."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if tensor.is_complex():
            name, tensor = name + _COMPLEX, torch.view_as_real(tensor.resolve_conj())
        stored[name] = tensor.clone(memory_format=torch.contiguous_format)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(stored, temporary, metadata={"header": json.dumps(header)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_checkpoint` wrote.

    Raises:
        ValueError: a file that is truncated or was not written by `save_checkpoint`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("header")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); delete it to start afresh") from error
    if header is None:
        raise ValueError(f"{path} holds tensors but no header of ours; it is not a checkpoint of this loop")
    named = {}
    for name, tensor in tensors.items():
        if name.endswith(_COMPLEX):
            name, tensor = name.removesuffix(_COMPLEX), torch.view_as_complex(tensor)
        named[name] = tensor
    return named, json.loads(header)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as flat tensors and a JSON-able rest."""
    state = optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            key = f"optimizer/{index}/{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
            elif value is None or isinstance(value, (bool, int, float, str)):
                scalars[key] = value
            else:
                raise TypeError(f"{type(optimizer).__name__} keeps a {type(value).__name__} in {name!r}: not resumable")
    groups = [{k: list(v) if isinstance(v, tuple) else v for k, v in group.items()} for group in state["param_groups"]]
    return tensors, {"scalars": scalars, "groups": groups}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Put back what `pack_optimizer` took out."""
    state: dict[int, dict[str, Any]] = {}
    stored = {k: v for k, v in tensors.items() if k.startswith("optimizer/")} | rest["scalars"]
    for key, value in stored.items():
        _, index, name = key.split("/", 2)
        state.setdefault(int(index), {})[name] = value
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in rest["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
