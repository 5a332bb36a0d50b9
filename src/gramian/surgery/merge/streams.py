"""Networks as tensors by name, one at a time: modules, state dictionaries and safetensors files alike."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

__all__ = ["FileState", "Source", "agree", "as_state", "merge_tensors"]

Source = nn.Module | Mapping[str, Tensor] | str | Path
"""What can be merged."""

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class FileState(Mapping[str, Tensor]):
    """A safetensors file as a mapping that reads a tensor when it is asked for, and keeps none.

    Raises:
        ValueError: the file is damaged or no safetensors file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        try:
            with safe_open(str(path), framework="pt") as file:
                self.names = list(file.keys())
                self.metadata = file.metadata() or {}
                self.shapes = {n: tuple(file.get_slice(n).get_shape()) for n in self.names}
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        with safe_open(str(self.path), framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def as_state(source: Source) -> Mapping[str, Tensor]:
    """The tensors of a network by name; a file's are read one at a time."""
    if isinstance(source, nn.Module):
        return source.state_dict()
    return FileState(source) if isinstance(source, str | Path) else source


def shape_of(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """A tensor's shape, without reading it from a file."""
    return state.shapes[name] if isinstance(state, FileState) else tuple(state[name].shape)


def agree(states: Sequence[Mapping[str, Tensor]], *, partial: bool = False) -> list[str]:
    """The names of all tensors, in the first network's order, after checking that the networks fit together.

    Args:
        partial: allow tensors that only some networks have.

    Raises:
        ValueError: fewer than one network, names that differ, or shapes that do.
    """
    if not states:
        raise ValueError("there is nothing to merge: give at least one network")
    names = list(dict.fromkeys(n for s in states for n in s))
    for name in names:
        having = [i for i, s in enumerate(states) if name in s]
        if len(having) < len(states) and not partial:
            raise ValueError(
                f"{name!r} is only in network {', '.join(str(i) for i in having)} of {len(states)}: another "
                "architecture, or a head of its own (partial=True copies what one network alone has)"
            )
        shapes = {shape_of(states[i], name) for i in having}
        if len(shapes) > 1:
            raise ValueError(f"{name!r} has shapes {' and '.join(map(str, sorted(shapes)))}: another architecture")
    return names


def merge_tensors(
    states: Sequence[Mapping[str, Tensor]], combine: Callable[[str, list[Tensor]], Tensor], *,
    out: str | Path | None = None, partial: bool = False,
) -> dict[str, Tensor] | Path:  # fmt: skip
    """Merge tensor by tensor: one tensor of each network is in memory at a time.

    Args:
        combine: (name, the tensors of that name) → their merge, of the same shape; called where at least two
            networks have the name, otherwise the tensor is copied.
        out: a safetensors file, written as the merge goes and put in place at the end; without one, the merged
            tensors are returned.

    Raises:
        ValueError: as `agree`; a merge of another shape, or one with NaN or infinite entries.
    """
    names = agree(states, partial=partial)

    def one(name: str) -> Tensor:
        tensors = [s[name] for s in states if name in s]
        first = tensors[0]
        if len(tensors) == 1 and len(states) > 1:
            return first
        merged = combine(name, tensors).to(first.dtype)
        if merged.shape != first.shape:
            raise ValueError(f"the merge of {name!r} has shape {tuple(merged.shape)}, not {tuple(first.shape)}")
        if merged.is_floating_point() and not torch.isfinite(merged).all():
            raise ValueError(f"the merge of {name!r} has NaN or infinite entries: look at the networks and weights")
        return merged

    if out is None:
        return {name: one(name).clone() for name in names}
    return _write(Path(out), states, names, one)


def _write(path: Path, states: Sequence[Mapping[str, Tensor]], names: list[str], one: Callable[[str], Tensor]) -> Path:
    header, end = {}, 0
    for name in names:
        tensor = next(s for s in states if name in s)[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                flat = one(name).detach().cpu().contiguous().flatten()
                file.write(memoryview(flat.view(torch.uint8).numpy()))
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path
