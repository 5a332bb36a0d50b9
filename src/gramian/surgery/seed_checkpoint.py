"""A trained network as two seeds and d numbers: the start, the random subspace, and where in it training ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from gramian.optim.subspace import SubspaceParametrization

__all__ = ["from_seed_checkpoint", "to_seed_checkpoint"]

Build = Callable[[int], nn.Module]


def _start_hash(inside: SubspaceParametrization) -> str:
    return hashlib.sha256(inside.start.cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def to_seed_checkpoint(inside: SubspaceParametrization, path: str | Path, start_seed: int) -> Path:
    """Write what `from_seed_checkpoint` needs besides the network's own code: d coordinates and a few words.

    Args:
        inside: a network trained in a subspace.
        start_seed: the seed that its builder gave θ₀ from.
    """
    path = Path(path)
    projection = inside.projection
    said = {
        "start_seed": start_seed, "start": _start_hash(inside), "kind": projection.kind, "seed": projection.seed,
        "dimension": projection.dimension, "size": projection.size, "draws": projection.fingerprint,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {"coordinates": inside.coordinates.detach().cpu().contiguous()}, path, metadata={"subspace": json.dumps(said)}
    )
    return path


def from_seed_checkpoint(path: str | Path, build: Build) -> SubspaceParametrization:
    """The network in its subspace, as it was saved; ``.write()`` gives the plain network.

    Args:
        build: start seed → the network at θ₀, as it was built before training.

    Raises:
        ValueError: not such a file, or the seeds give another start or another subspace here than they did when it
            was written.
    """
    with safe_open(path, "pt") as file:
        said = (file.metadata() or {}).get("subspace")
        if said is None:
            raise ValueError(f"{path} is not a seed checkpoint; to_seed_checkpoint writes one")
        said = json.loads(said)
        coordinates = file.get_tensor("coordinates")
    model = build(said["start_seed"])
    inside = SubspaceParametrization(model, said["dimension"], said["kind"], said["seed"])
    if inside.projection.size != said["size"]:
        raise ValueError(f"the network built has {inside.projection.size} parameters, the saved one {said['size']}")
    for what, here, there in (
        ("start", _start_hash(inside), said["start"]),
        ("subspace", inside.projection.fingerprint, said["draws"]),
    ):
        if here != there:
            raise ValueError(
                f"the seeds give another {what} here than when {path} was written: build the network from start_seed="
                f"{said['start_seed']} alone, with the same torch release"
            )
    with torch.no_grad():
        inside.coordinates.copy_(coordinates)
    return inside
