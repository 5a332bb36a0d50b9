"""Fisher matrices in files: safetensors with the sums, the count and what they are of."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_state(path: str | Path, sums: dict[str, Tensor], count: int, settings: dict[str, str]) -> Path:
    """Write the state of an accumulator; an interrupted write leaves an older file as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        metadata = {"format": "gramian-fisher", "count": str(count), **settings}
        save_file({n: t.detach().cpu().contiguous() for n, t in sums.items()}, temporary, metadata=metadata)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def read_state(path: str | Path) -> tuple[dict[str, Tensor], int, dict[str, str]]:
    """The sums, the count and the settings of a file that `write_state` wrote.

    Raises:
        ValueError: the file is damaged or holds something else.
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if metadata.pop("format", None) != "gramian-fisher":
        raise ValueError(f"{path} holds tensors, but not those of a Fisher accumulator: write it with save()")
    return sums, int(metadata.pop("count")), metadata


def read_diagonal(path: str | Path) -> dict[str, Float[Tensor, "..."]]:
    """The diagonal Fisher matrix in a file, as means: parameter → tensor. No model is needed.

    Raises:
        ValueError: as `read_state`, or the file holds another kind.
    """
    sums, count, settings = read_state(path)
    if settings.get("kind") != "diag":
        raise ValueError(f"{path} holds kind={settings.get('kind')!r}, not a diagonal")
    return {name: total / count for name, total in sums.items()}
