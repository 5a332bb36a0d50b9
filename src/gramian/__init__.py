"""gramian: the matrices of neural networks. Every paper's method runs, and every claim is measured.

The rooms are imported when they are first used, so that ``import gramian`` costs nothing::

    import gramian
    layer = gramian.nn.state.S4D(channels=64)
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = (
    "analysis",
    "atlas",
    "data",
    "estimators",
    "lab",
    "linalg",
    "models",
    "nn",
    "optim",
    "papers",
    "surgery",
    "tasks",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"gramian.{name}")
    raise AttributeError(f"module 'gramian' has no attribute {name!r}; its rooms are {', '.join(_ROOMS)}")


def __dir__() -> list[str]:
    return [*_ROOMS, "__version__"]
