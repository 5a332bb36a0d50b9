"""Save a fitted model and load it again, without pickle: a file from a stranger runs no code of theirs.

A model with methods ``save(path)`` and ``load(path)`` keeps its own format (safetensors and JSON for
networks); anything else that follows scikit-learn goes through ``skops``, whose files name the types they
need, and only types of the libraries that we use are let in.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

TRUSTED = ("gramian.", "sklearn.", "aeon.", "numpy.", "scipy.")


def save(model: Any, folder: Path) -> int:
    """Write the model into `folder`; returns its size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = type(model)
    own = hasattr(model, "save") and hasattr(model, "load")
    if own:
        model.save(folder / "model.safetensors")
    else:
        from skops import io

        io.dump(model, folder / "model.skops")
    described = {"format": "own" if own else "skops", "type": f"{kind.__module__}.{kind.__qualname__}"}
    (folder / "model.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def load(folder: Path) -> Any:
    """The model that `save` wrote.

    Raises:
        ValueError: the folder holds no model, or its file asks for a type that is not trusted.
    """
    described_at = Path(folder) / "model.json"
    if not described_at.exists():
        raise ValueError(
            f"{folder} holds no saved model (no model.json); `gramian apply TASK METHOD --out DIR` writes one"
        )
    described = json.loads(described_at.read_text(encoding="utf-8"))
    if described["format"] == "own":
        module, _, name = described["type"].rpartition(".")
        if not module.startswith("gramian."):
            raise ValueError(f"{described_at} names the type {described['type']}, which is not one of gramian's")
        return getattr(import_module(module), name).load(Path(folder) / "model.safetensors")
    from skops import io

    file = Path(folder) / "model.skops"
    asked = io.get_untrusted_types(file=file)
    foreign = [t for t in asked if not t.startswith(TRUSTED)]
    if foreign:
        raise ValueError(f"{file} asks for types that are not trusted: {', '.join(foreign)}; it was not loaded")
    return io.load(file, trusted=asked)
