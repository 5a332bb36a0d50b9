"""Open a model by what a user has: a bundled name, a Hugging Face folder, or a file of weights.

Nothing is downloaded and no pickle is run: folders are read from disk with safetensors, files with
``torch.load(weights_only=True)`` or safetensors.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gramian import data
from gramian.lab import Missing
from gramian.models.pretrained import PRETRAINED, _no_bars, pretrained, tokenizer

Reads = Literal["text", "sentences", "images", "unknown"]
_READS: dict[str, Reads] = {"smollm2_135m": "text", "all_minilm_l6_v2": "sentences", "efficientnet_lite0": "images"}


@dataclass(frozen=True)
class Opened:
    """A model and what is known of it.

    Attributes:
        name: for titles and file names.
        model: in evaluation mode.
        reads: ``"text"`` (a causal language model), ``"sentences"`` (an encoder), ``"images"``, or ``"unknown"``.
        tokenizer: for models of text; None where there is none.
        runs: False for a bare file of weights, whose matrices can be looked at and nothing more.
    """

    name: str
    model: nn.Module
    reads: Reads
    tokenizer: Any = None
    runs: bool = True


class Weights(nn.Module):
    """Tensors under their dotted names, as a module that cannot be called: what a file holds without its code."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *path, last = name.split(".")
            parent: nn.Module = self
            for part in path:
                child = parent._modules.get(part)
                if child is None:
                    child = nn.Module()
                    parent.add_module(part, child)
                parent = child
            if tensor.is_floating_point():
                parent.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
            else:
                parent.register_buffer(last, tensor)

    def forward(self, *inputs: Any) -> None:
        raise ValueError("a file of weights alone cannot run: name the function that builds the network (factory)")


def open_model(what: str, factory: str | None = None) -> Opened:
    """Open what `what` names.

    Args:
        what: one of the bundled networks, a folder with ``config.json`` and safetensors as transformers writes
            it, or a ``.safetensors``, ``.pt`` or ``.pth`` file of weights.
        factory: for a file: ``package.module:function`` or ``path/to/file.py:function``; called without arguments,
            it returns the network that the weights are loaded into. Your code runs.

    Raises:
        ValueError: no such thing, a folder or file that is not what it seems, weights that do not fit.
        Missing: the weights or an extra are not on this machine; the message names the command.
    """
    path = Path(what)
    if path.is_dir():
        if factory:
            raise ValueError("factory= goes with a file of weights; a folder names its architecture in config.json")
        return _folder(path)
    if path.is_file():
        return _file(path, factory)
    if path.suffix in (".safetensors", ".pt", ".pth", ".bin"):
        raise ValueError(f"there is no file {what}")
    try:
        name = data.entry(what).name
    except (KeyError, ValueError):
        name = ""
    if name not in PRETRAINED:
        known = ", ".join(n.replace("_", "-") for n in PRETRAINED)
        raise ValueError(f"{what!r} is neither a bundled network ({known}) nor a folder or file on this machine")
    if factory:
        raise ValueError("factory= goes with a file of weights; a bundled network builds itself")
    reads = _READS[name]
    words = tokenizer(name) if reads != "images" else None
    return Opened(name.replace("_", "-"), pretrained(name), reads, words)


def _folder(path: Path) -> Opened:
    config = path / "config.json"
    if not config.exists():
        raise ValueError(f"{path} has no config.json: give a folder that transformers' save_pretrained wrote")
    try:
        architectures = json.loads(config.read_text(encoding="utf-8")).get("architectures") or [""]
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{config} is not a readable configuration: {error}") from None
    try:
        import transformers
    except ImportError as error:
        raise Missing(f"{path} needs transformers: pip install 'gramian[language]' ({error})") from error
    causal = "CausalLM" in architectures[0] or "LMHead" in architectures[0]
    loader = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    try:
        with _no_bars(transformers):
            model = loader.from_pretrained(path, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"transformers cannot load {path}: {str(error).splitlines()[0]}") from None
    words = None
    if any((path / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
        words = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    reads: Reads = "text" if causal else "sentences" if words is not None else "unknown"
    return Opened(path.name, model.eval(), reads, words)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a ``.pt``/``.pth`` file of tensors alone.

    Raises:
        ValueError: the file is truncated, holds other things than tensors, or would run code.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as tensors alone ({type(error).__name__}); pickled objects are not loaded: "
            "save the state dictionary, best as safetensors"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a dictionary of tensors")
    return found


def _file(path: Path, factory: str | None) -> Opened:
    tensors = read_weights(path)
    if factory is None:
        return Opened(path.stem, Weights(tensors).eval(), "unknown", runs=False)
    model = build(factory)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the weights of {path} do not fit {factory}: {' '.join(str(error).split())[:300]}") from None
    return Opened(path.stem, model.eval(), "unknown")


def build(factory: str) -> nn.Module:
    """The network that ``package.module:function`` or ``file.py:function`` returns.

    Raises:
        ValueError: no such function, or it returned something else.
    """
    model = _function(factory)()
    if not isinstance(model, nn.Module):
        raise ValueError(f"{factory} returned a {type(model).__name__}, not a torch module")
    return model


def _function(factory: str) -> Callable[[], nn.Module]:
    where, _, name = factory.rpartition(":")
    if not where or not name:
        raise ValueError(f"factory={factory!r} is not package.module:function or file.py:function")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(where).stem, where)
            if spec is None or spec.loader is None or not Path(where).exists():
                raise ImportError(f"there is no file {where}")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        return getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"factory={factory!r}: {error}") from None
