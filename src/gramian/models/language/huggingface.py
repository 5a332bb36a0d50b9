"""Hugging Face models and folders, read and written without transformers: a configuration and safetensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["fill", "read", "write"]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def read(source: nn.Module | str | Path, model_type: str, asked: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a Hugging Face model or folder.

    Args:
        source: a model (anything with ``.config.to_dict()``) or a folder.
        model_type: the architecture that is wanted.
        asked: who asks, for the message.

    Raises:
        FileNotFoundError: no such folder, or a file is missing in it.
        TypeError: a module without a configuration.
        ValueError: another architecture, or a file that is not whole.
    """
    if isinstance(source, nn.Module):
        found = getattr(source, "config", None)
        if not callable(getattr(found, "to_dict", None)):
            raise TypeError(f"a {type(source).__name__} has no Hugging Face configuration; give its model or a folder")
        config = dict(found.to_dict())
        _check_type(config, model_type, asked, type(source).__name__)
        return config, dict(source.state_dict())
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; nothing is downloaded: give the folder of a saved model")
    config = _json(folder / "config.json")
    _check_type(config, model_type, asked, str(folder))
    if (folder / INDEX).exists():
        files = sorted(set(_json(folder / INDEX)["weight_map"].values()))
    else:
        files = [WEIGHTS]
    tensors: dict[str, Tensor] = {}
    for name in files:
        path = folder / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; weights are read from safetensors files only")
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}); copy it again") from error
    return config, tensors


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: this is not the folder of a Hugging Face model")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error


def _check_type(config: dict[str, Any], model_type: str, asked: str, source: str) -> None:
    found = config.get("model_type")
    if found != model_type:
        raise ValueError(f"{source} holds a model of type {found!r}; {asked} reads {model_type!r}")


def fill(model: nn.Module, tensors: dict[str, Tensor], *, tied: bool) -> None:
    """Give a model (of meta tensors) copies of the tensors, strictly by name; a tied head may be left out.

    Raises:
        ValueError: a tensor that is missing, left over, or of another shape.
    """
    tensors = {name.replace("backbone.embedding.", "backbone.embeddings."): t for name, t in tensors.items()}
    if tied and "backbone.embeddings.weight" in tensors:
        tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"]
    wanted = model.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [f"{name} is left over" for name in tensors if name not in wanted]
    wrong += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(t.shape)}"
        for name, t in wanted.items()
        if name in tensors and tensors[name].shape != t.shape
    ]
    if wrong:
        raise ValueError(f"the weights do not fit the configuration: {'; '.join(wrong[:4])}")
    kept: dict[int, Tensor] = {}
    copies = {name: kept.setdefault(id(tensors[name]), tensors[name].detach().clone()) for name in wanted}
    model.load_state_dict(copies, assign=True)
    if tied:
        model.lm_head.weight = model.backbone.embeddings.weight


def write(model: nn.Module, folder: str | Path, config: dict[str, Any], *, tied: bool) -> Path:
    """Write ``config.json`` and ``model.safetensors``, each whole or not at all; a tied head is left out.

    Raises:
        ValueError: the folder holds another model already.
    """
    folder = Path(folder)
    if (folder / INDEX).exists():
        raise ValueError(f"{folder} holds a model in several files already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: t.detach().cpu().contiguous() for k, t in model.state_dict().items()}
    if tied:
        tensors.pop("lm_head.weight")
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    text = json.dumps(_plain(config | {"dtype": dtype}), indent=2) + "\n"
    part = folder / f".{WEIGHTS}.part"
    save_file(tensors, part, metadata={"format": "pt"})
    part.replace(folder / WEIGHTS)
    part = folder / ".config.json.part"
    part.write_text(text, encoding="utf-8")
    part.replace(folder / "config.json")
    return folder


def _plain(value: Any) -> Any:
    """Infinity as Hugging Face writes it: JSON has none."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return {"__float__": "Infinity"} if value == math.inf else value


def end_tokens(config: dict[str, Any]) -> tuple[int, ...]:
    """What a configuration says ends a text: none, one or several tokens."""
    found = config.get("eos_token_id")
    if found is None:
        return ()
    return tuple(int(t) for t in found) if isinstance(found, (list, tuple)) else (int(found),)


def number(value: Any) -> float:
    """A number of a configuration; infinity is written as ``{"__float__": "Infinity"}``."""
    return float(value["__float__"] if isinstance(value, dict) else value)


def require(config: dict[str, Any], **wanted: Any) -> None:
    """Refuse a configuration in which something has another value than the one that is built here.

    Raises:
        ValueError: it has; the message names it.
    """
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise ValueError(f"{name}={config[name]!r} of the configuration is not built here, only {value!r}")
