"""Zoos of trained networks on disk: a folder a model, with its settings, its history and its weights.

The layout is that of the published zoos:

    zoo/
        name of a model/
            params.json             settings, such as {"model::width": 16, "training::batchsize": 64, "seed": 0}
            result.json             a JSON object a line: metrics after 0, 1, 2, … epochs
            checkpoint_000010/      weights after 10 epochs

A zoo written here keeps its weights as safetensors; the published ones are torch files, which are read without running
any code in them.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    import pandas

__all__ = ["Thresholds", "ZooModel", "ZooReader", "classify_phase", "grid", "make_zoo", "write_model"]

LOAD, TEMPERATURE, SEED = "model::width", "training::batchsize", "seed"
PHASES = ("I", "II", "III", "IV-A", "IV-B")
_SAFE, _TORCH = "checkpoints.safetensors", "checkpoints"
_CHECKPOINT = re.compile(r"checkpoint_(\d{6})$")


def write_model(
    folder: str | Path,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]],
    checkpoints: Mapping[int, nn.Module | Mapping[str, Tensor]],
) -> Path:
    """Write one model of a zoo; the folder appears whole or not at all.

    Args:
        config: settings, of JSON's types.
        rows: metrics after 0, 1, … epochs.
        checkpoints: epochs → network, or its state.

    Raises:
        ValueError: a folder that is there already, metrics or settings that JSON does not hold, or a checkpoint of an
            epoch without metrics.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} is there already; a zoo's models are not overwritten")
    beyond = [e for e in checkpoints if not 0 <= e < len(rows)]
    if beyond:
        raise ValueError(f"checkpoints of epochs {beyond}, but there are metrics of epochs 0 to {len(rows) - 1}")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        (part / "params.json").write_text(_json(dict(config), 1), encoding="utf-8")
        (part / "result.json").write_text("".join(_json(dict(r)) + "\n" for r in rows), encoding="utf-8")
        for epoch, state in checkpoints.items():
            tensors = state.state_dict() if isinstance(state, nn.Module) else state
            inner = part / f"checkpoint_{epoch:06d}"
            inner.mkdir()
            save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, inner / _SAFE)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _json(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings and metrics are numbers, words and lists of them, all finite: {error}") from error


@dataclass(frozen=True)
class ZooModel:
    """One model of a zoo.

    Attributes:
        folder: where it lies.
        config: its settings.
    """

    folder: Path
    config: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Metrics after 0, 1, … epochs."""
        lines = (self.folder / "result.json").read_text(encoding="utf-8").splitlines()
        try:
            return [json.loads(line) for line in lines if line.strip()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.folder / 'result.json'} is damaged: {error}") from error

    @property
    def epochs(self) -> list[int]:
        """The epochs whose weights are there."""
        return sorted(int(m[1]) for f in self.folder.iterdir() if (m := _CHECKPOINT.match(f.name)))

    def state(self, epoch: int | None = None) -> dict[str, Tensor]:
        """The weights after an epoch, the last by default; the prefix that data-parallel training leaves is taken off.

        Raises:
            ValueError: an epoch without weights, or a file that is damaged or holds more than tensors.
        """
        if not self.epochs or (epoch is not None and epoch not in self.epochs):
            raise ValueError(f"{self.folder.name} has weights of epochs {self.epochs}, not of {epoch}")
        inner = self.folder / f"checkpoint_{self.epochs[-1] if epoch is None else epoch:06d}"
        try:
            if (inner / _SAFE).exists():
                tensors = load_file(inner / _SAFE)
            else:
                tensors = torch.load(inner / _TORCH, map_location="cpu", weights_only=True)
        except (SafetensorError, RuntimeError, EOFError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"the weights in {inner} cannot be read: {error}") from error
        except Exception as error:  # what torch raises for a file that would run code
            if "weights only" not in str(error).lower() and "unpickl" not in type(error).__name__.lower():
                raise
            raise ValueError(f"the file in {inner} holds more than tensors, and is not opened: {error}") from error
        if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
            raise ValueError(f"the file in {inner} is no dictionary of tensors")
        return {k.removeprefix("module."): v for k, v in tensors.items()}

    def load(self, build: Callable[[dict[str, Any]], nn.Module], epoch: int | None = None) -> nn.Module:
        """The network that `build` makes of the settings, with the weights of an epoch, in evaluation mode."""
        network = build(dict(self.config))
        network.load_state_dict(self.state(epoch))
        return network.eval()

    def annotate(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to the row of an epoch, in the file; an interruption leaves the earlier file.

        Raises:
            ValueError: an epoch without metrics, or metrics that are not finite.
        """
        rows = self.rows
        if not 0 <= epoch < len(rows):
            raise ValueError(f"{self.folder.name} has metrics of epochs 0 to {len(rows) - 1}, not of {epoch}")
        rows[epoch] |= dict(metrics)
        text = "".join(_json(r) + "\n" for r in rows)
        part = self.folder / f".result.{os.getpid()}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(self.folder / "result.json")


class ZooReader:
    """A zoo, opened.

    Args:
        path: its folder.

    Attributes:
        models: by the names of their folders, in order.

    Raises:
        ValueError: a folder that is not there or holds no model, or damaged settings.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        folders = sorted(f for f in self.path.iterdir() if f.is_dir()) if self.path.is_dir() else []
        self.models: dict[str, ZooModel] = {}
        for folder in folders:
            # the published zoos name it params.json, their description config.json
            found = next((folder / n for n in ("params.json", "config.json") if (folder / n).exists()), None)
            if folder.name.startswith(".") or found is None or not (folder / "result.json").exists():
                continue
            try:
                self.models[folder.name] = ZooModel(folder, json.loads(found.read_text(encoding="utf-8")))
            except json.JSONDecodeError as error:
                raise ValueError(f"{found} is damaged: {error}") from error
        if not self.models:
            raise ValueError(f"{self.path} holds no model: each is a folder with params.json and result.json")

    def __len__(self) -> int:
        return len(self.models)

    def table(self, metrics: Sequence[str] | None = None, epoch: int = -1) -> pandas.DataFrame:
        """Settings and metrics of all models that have the epoch, one a row, by name.

        Args:
            metrics: which; all by default.
            epoch: counted from the end where negative.

        Raises:
            ValueError: a metric that no model has at that epoch.
        """
        import pandas

        found = {}
        for name, model in self.models.items():
            rows = model.rows
            if -len(rows) <= epoch < len(rows):
                row = {k: v for k, v in rows[epoch].items() if k != "config"}
                found[name] = (model.config, row)
        known = sorted({k for _, row in found.values() for k in row})
        unknown = [m for m in metrics or () if m not in known]
        if unknown:
            raise ValueError(f"unknown metrics {', '.join(unknown)}; at epoch {epoch} the zoo has {', '.join(known)}")
        wanted = list(metrics) if metrics is not None else known
        return pandas.DataFrame.from_dict(
            {n: config | {m: row.get(m) for m in wanted} for n, (config, row) in found.items()}, orient="index"
        )

    def cells(self, by: Sequence[str] = (LOAD, TEMPERATURE)) -> dict[tuple[Any, ...], list[ZooModel]]:
        """The models that share some settings: by default those that differ in their seeds alone.

        Raises:
            ValueError: a setting that a model lacks.
        """
        groups: dict[tuple[Any, ...], list[ZooModel]] = {}
        for name, model in self.models.items():
            missing = [k for k in by if k not in model.config]
            if missing:
                raise ValueError(f"{name} has no setting {', '.join(missing)}; it has {', '.join(model.config)}")
            groups.setdefault(tuple(model.config[k] for k in by), []).append(model)
        return dict(sorted(groups.items()))


def grid(loads: Iterable[int], temperatures: Iterable[float | int], seeds: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Settings of every load (a width), temperature (a batch size) and seed.

    >>> len(list(grid((2, 4), (8, 64, 512), range(3))))
    18
    """
    temperatures, seeds = list(temperatures), list(seeds)
    for load in loads:
        for temperature in temperatures:
            for seed in seeds:
                yield {LOAD: load, TEMPERATURE: temperature, SEED: seed}


Trained = tuple[Sequence[Mapping[str, float]], Mapping[int, nn.Module | Mapping[str, Tensor]]]


def make_zoo(
    path: str | Path, configs: Iterable[Mapping[str, Any]], train: Callable[[dict[str, Any]], Trained], jobs: int = 1
) -> ZooReader:
    """Train a network for every setting and write it; models that are there already are kept.

    Args:
        train: settings → (metrics after each epoch, the epochs' networks). With several `jobs` it runs in other
            processes.
        jobs: processes.

    Raises:
        ValueError: no setting, or two that are the same.
    """
    import joblib

    path = Path(path)
    named = [(_name(c), dict(c)) for c in configs]
    names = [n for n, _ in named]
    if not named or len(set(names)) < len(names):
        raise ValueError(f"{len(named)} settings, {len(set(names))} of them different: each model needs its own")
    todo = [(name, config) for name, config in named if not (path / name).exists()]
    tasks = (joblib.delayed(_trained)(train, path / name, config) for name, config in todo)
    joblib.Parallel(n_jobs=jobs)(tasks)
    return ZooReader(path)


def _trained(train: Callable[[dict[str, Any]], Trained], folder: Path, config: dict[str, Any]) -> None:
    rows, checkpoints = train(dict(config))
    write_model(folder, config, rows, checkpoints)


def _name(config: Mapping[str, Any]) -> str:
    return ",".join(f"{k.split('::')[-1]}={v}" for k, v in config.items())


@dataclass(frozen=True)
class Thresholds:
    """Where phases end; they belong to a zoo.

    Attributes:
        train_loss: above it, a network is underfitted.
        barrier: connectivity below minus this is a barrier.
        similarity: from it on, networks of different seeds are alike.
    """

    train_loss: float
    barrier: float
    similarity: float


def classify_phase(metrics: Mapping[str, float], thresholds: Thresholds) -> str:
    """The phase of a cell from its training loss, mode connectivity and similarity.

    High loss: I with a barrier, II without. Low loss: III with a barrier, and without one IV-A where seeds are
    dissimilar, IV-B where they are alike.

    Raises:
        ValueError: a metric that is missing or not finite.

    Source: Yang et al. (2021), figure 1.

    >>> limits = Thresholds(train_loss=0.1, barrier=0.02, similarity=0.8)
    >>> classify_phase({"train_loss": 0.01, "connectivity": 0.0, "similarity": 0.9}, limits)
    'IV-B'
    """
    for name in ("train_loss", "connectivity", "similarity"):
        if name not in metrics or not math.isfinite(metrics[name]):
            raise ValueError(f"the phase needs a finite {name!r}, got {metrics.get(name)!r}")
    barrier = metrics["connectivity"] < -thresholds.barrier
    if metrics["train_loss"] > thresholds.train_loss:
        return "I" if barrier else "II"
    if barrier:
        return "III"
    return "IV-B" if metrics["similarity"] >= thresholds.similarity else "IV-A"
