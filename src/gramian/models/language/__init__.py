"""Language models."""

from importlib import import_module
from typing import Any

__all__ = ["Mamba2LM", "MambaLM"]

_HOMES = {"MambaLM": "mamba_lm", "Mamba2LM": "mamba2_lm"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"gramian.models.language has no {name!r}")
    return getattr(import_module(f"gramian.models.language.{_HOMES[name]}"), name)
