"""What the tasks on a user's own classifier share: its file, its samples, and a file of the changed one.

A classifier is a file of weights with a function that builds the network, and an ``.npz`` file of samples ``x`` and
labels ``y``; or one of two small networks for scikit-learn's digits.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from gramian.models.opening import build, open_model
from gramian.optim.fit import fit
from gramian.surgery.adapters import transfer

DIGITS = "gramian.tasks.support.classifier:digits_network"


def digits_network() -> nn.Module:
    """64-128-128-10 with ReLU, started from torch's own random state."""
    return transfer.mlp(int(torch.randint(2**31, ())))


def normalized_digits_network() -> nn.Module:
    """The same with a batch norm after each hidden layer."""
    layers: list[nn.Module] = []
    for layer in digits_network().children():
        layers.append(layer)
        if isinstance(layer, nn.Linear) and layer.out_features == 128:
            layers.append(nn.BatchNorm1d(128))
    return nn.Sequential(*layers)


class ChangedClassifier:
    """A classifier that was changed; saved as its weights and the name of what builds it.

    Args:
        factory: package.module:function or file.py:function.
    """

    def __init__(self, model: nn.Module, factory: str) -> None:
        self.model, self.factory = model, factory

    def save(self, path: Path) -> None:
        """Write ``path`` and, beside it, ``.build.json``."""
        save_model(self.model, str(path))
        Path(path).with_suffix(".build.json").write_text(json.dumps({"factory": self.factory}), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> ChangedClassifier:
        """The classifier that was written to `path`, in evaluation mode."""
        factory = json.loads(Path(path).with_suffix(".build.json").read_text(encoding="utf-8"))["factory"]
        model = build(factory)
        load_model(model, str(path))
        return cls(model.eval(), factory)


def open_classifier(file: str, factory: str) -> tuple[nn.Module, str]:
    """A classifier out of its file of weights, in evaluation mode, and its name.

    Raises:
        ValueError: no such file, no function named, or weights that do not fit.
    """
    if not factory:
        raise ValueError("a classifier of yours needs --set factory=FILE.py:FUNCTION and --set samples=FILE.npz")
    opened = open_model(file, factory)
    return opened.model.eval(), opened.name


def read_samples(path: Path, label: str = "y") -> tuple[Tensor, Tensor]:
    """Samples ``x`` and whole-numbered labels out of an .npz file.

    Raises:
        ValueError: not such a file, lengths that differ, labels that are not whole numbers, NaN or infinity.
    """
    try:
        with numpy.load(path, allow_pickle=False) as file:
            x, y = file["x"], file[label]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not an .npz file with arrays x and {label}: {error}") from None
    if len(x) != len(y) or y.ndim != 1 or not numpy.issubdtype(y.dtype, numpy.integer):
        raise ValueError(f"{path}: x has {len(x)} samples, y has shape {y.shape} of {y.dtype}; one whole number each")
    if not len(x):
        raise ValueError(f"{path} holds no samples")
    if not numpy.isfinite(x).all():
        raise ValueError(f"{path}: x holds NaN or infinity")
    return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y.astype(numpy.int64))


def batches(x: Tensor, y: Tensor, size: int = 512) -> list[tuple[Tensor, Tensor]]:
    """Samples with their labels, `size` at a time."""
    return list(zip(x.split(size), y.split(size), strict=True))


def checked_accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of right answers.

    Raises:
        ValueError: the network does not take the samples, or its classes are fewer than the labels.
    """
    try:
        value = transfer.accuracy(model, x, y)
        with torch.no_grad():
            classes = model(x[:2]).shape[-1]
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"the network does not take the samples: {str(error).splitlines()[0]}") from None
    if int(y.max()) >= classes or int(y.min()) < 0:
        raise ValueError(
            f"the network has {classes} classes, but there are labels from {int(y.min())} to {int(y.max())}"
        )
    return value


def train(model: nn.Module, x: Tensor, y: Tensor, *, seed: int, steps: int, lr: float) -> nn.Module:
    """Minimise the cross-entropy in place; returned in evaluation mode."""

    def loss(run: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(run(inputs), labels)

    fit(
        model, [x, y], loss, steps=steps, batch_size=64, lr=lr,
        generator=torch.Generator().manual_seed(seed), show_progress=False,
    )  # fmt: skip
    return model.eval()
