"""A small transfer to measure adapters on: a network for upright digits, adapted to digits turned by 90 degrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian import optim

__all__ = ["Digits", "Outcome", "accuracy", "adapt", "cnn", "load_digits", "mlp", "train"]


@dataclass(frozen=True)
class Digits:
    """Scikit-learn's 1,797 digits, standardised by the training part, split once and for all.

    Attributes:
        train, test: images (samples, 8, 8).
        train_labels, test_labels: 0 … 9.
    """

    train: Float[Tensor, "train 8 8"]
    train_labels: Int[Tensor, " train"]
    test: Float[Tensor, "test 8 8"]
    test_labels: Int[Tensor, " test"]

    def turned(self) -> Digits:
        """The same digits, turned by 90 degrees."""
        return Digits(self.train.rot90(1, (1, 2)), self.train_labels, self.test.rot90(1, (1, 2)), self.test_labels)


@dataclass
class Outcome:
    """What an adaptation did.

    Attributes:
        losses: of every step's batch.
        new, old: test accuracy on the turned and on the upright digits.
        trained: how many numbers were trained.
    """

    losses: list[float] = field(default_factory=list)
    new: float = 0.0
    old: float = 0.0
    trained: int = 0

    @property
    def early(self) -> float:
        """The mean loss of the first 50 steps."""
        return sum(self.losses[:50]) / len(self.losses[:50])


def load_digits() -> Digits:
    """The digits, a fifth of them held out."""
    from sklearn.datasets import load_digits as read

    found = read()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    images, labels = torch.tensor(found.images, dtype=torch.float32)[order], torch.tensor(found.target)[order].long()
    held = len(labels) // 5
    mean, deviation = images[held:].mean(), images[held:].std()
    images = (images - mean) / deviation
    return Digits(images[held:], labels[held:], images[:held], labels[:held])


def mlp(seed: int, widths: tuple[int, ...] = (64, 128, 128, 10)) -> nn.Sequential:
    """A network of linear layers and ReLU on flattened images, started from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths):
        layers += [_started(nn.Linear(fan_in, fan_out), generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(seed: int, channels: tuple[int, int] = (16, 32)) -> nn.Sequential:
    """Two convolutions of 3 × 3, the second with stride 2, and a linear layer, started from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    first, second = channels
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        _started(nn.Conv2d(1, first, 3, padding=1), generator),
        nn.ReLU(),
        _started(nn.Conv2d(first, second, 3, stride=2, padding=1), generator),
        nn.ReLU(),
        nn.Flatten(),
        _started(nn.Linear(second * 16, 10), generator),
    )


def _started(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> nn.Module:
    fan_in = layer.weight[0].numel()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * fan_in**-0.5)
    return layer


def train(
    model: nn.Module, images: Tensor, labels: Tensor, *, steps: int, lr: float, seed: int, batch: int = 64
) -> list[float]:
    """Minimise the cross-entropy with Adam over a fixed number of steps; returns every step's loss."""
    losses: list[float] = []

    def loss(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value = F.cross_entropy(module(x), y)
        losses.append(float(value.detach()))
        return value

    optim.fit(
        model, [images, labels], loss, steps=steps, lr=lr, batch_size=batch,
        generator=torch.Generator().manual_seed(seed), show_progress=False,
    )  # fmt: skip
    return losses


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of right answers, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(-1) == labels).float().mean())


def adapt(
    model: nn.Module, digits: Digits, change: Callable[[nn.Module], object], *, steps: int, lr: float, seed: int
) -> Outcome:
    """Let `change` attach adapters to a model of upright digits, train what they leave trainable on turned ones."""
    change(model)
    outcome = Outcome(trained=sum(p.numel() for p in model.parameters() if p.requires_grad))
    turned = digits.turned()
    outcome.losses = train(model, turned.train, turned.train_labels, steps=steps, lr=lr, seed=seed)
    outcome.new = accuracy(model, turned.test, turned.test_labels)
    outcome.old = accuracy(model, digits.test, digits.test_labels)
    return outcome
