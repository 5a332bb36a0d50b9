r"""The loss on the straight line between two networks: barriers, what predicts them, and permutations that remove them.

The barrier at \(t\) is \(B(t) = L((1-t)a + tb) - [(1-t)L(a) + tL(b)]\); networks are linearly connected where it is
near zero for all \(t\). Batch-norm statistics do not interpolate: they are recomputed on the path from `calibration`.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.optim import curvature

__all__ = [
    "Barrier", "StaleStatistics", "align_hidden_units", "barrier", "barrier_identity", "interpolate",
    "layerwise_barrier", "permute_hidden_units", "predicted_barrier", "split_experiment",
]  # fmt: skip

Loss = Callable[..., Tensor]
Batches = Iterable[Sequence[Any]]


class StaleStatistics(UserWarning):
    """Batch norm on the path uses interpolated statistics, which are those of no network on it."""


def _same(a: nn.Module, b: nn.Module) -> None:
    shapes = [{n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (a, b)]
    if shapes[0] != shapes[1]:
        differing = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
        raise ValueError(
            f"the networks differ in {', '.join(differing[:4])}; only two networks of one architecture have a straight "
            "line between them"
        )


def _statistics(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]


def interpolate(
    a: nn.Module, b: nn.Module, t: float | int | Mapping[str, float], calibration: Batches | None = None
) -> nn.Module:
    """A new network at (1 − t) a + t b, in evaluation mode.

    Args:
        a, b: two networks of one architecture.
        t: where; or a dictionary, parameter's name → t (0 for those not named).
        calibration: batches, of which the first entry is the input, to recompute batch-norm statistics.

    Raises:
        ValueError: networks of different architectures.

    Warns `StaleStatistics` if there are batch-norm statistics and nothing to recompute them with.
    """
    _same(a, b)
    model = copy.deepcopy(a)
    ours, theirs = dict(model.named_parameters()), dict(b.named_parameters())
    share = {n: float(t.get(n, 0.0)) if isinstance(t, Mapping) else float(t) for n in ours}
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.lerp_(theirs[name], share[name])
        there = dict(b.named_buffers())
        mean = float(np.mean(list(share.values())))
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.lerp_(there[name], mean)
    parts = _statistics(model)
    if parts and calibration is None and any(0 < s < 1 for s in share.values()):
        warnings.warn(
            "the network has batch-norm statistics, which do not interpolate: give calibration= batches to recompute "
            "them on the path",
            StaleStatistics,
            stacklevel=2,
        )
    if parts and calibration is not None:
        momenta = [part.momentum for part in parts]
        model.train()
        for part in parts:
            part.reset_running_stats()
            part.momentum = None  # the plain mean over the batches
        with torch.no_grad():
            for batch in calibration:
                model(batch[0])
        for part, momentum in zip(parts, momenta):
            part.momentum = momentum
    return model.eval()


def _mean_loss(model: nn.Module, loss: Loss, batches: Batches) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            total += float(loss(model, *batch)) * len(batch[0])
            count += len(batch[0])
    if count == 0:
        raise ValueError("there is no batch to measure the loss on")
    return total / count


@dataclass(frozen=True)
class Barrier:
    """The loss along a line.

    Attributes:
        t: the points, 0 and 1 among them.
        loss: the mean loss there.
        excess: the loss above the straight line between the ends.
    """

    t: Float[Tensor, " points"]
    loss: Float[Tensor, " points"]

    @property
    def excess(self) -> Float[Tensor, " points"]:
        return self.loss - torch.lerp(self.loss[0], self.loss[-1], self.t)

    @property
    def height(self) -> float:
        """Max over t of the excess; at least 0, its value at the ends."""
        return float(self.excess.max())

    @property
    def middle(self) -> float:
        """The excess at the grid's point nearest to 1/2."""
        return float(self.excess[(self.t - 0.5).abs().argmin()])


def barrier(
    a: nn.Module,
    b: nn.Module,
    loss: Loss,
    batches: Batches,
    points: int | Sequence[float] = 11,
    *,
    only: str | None = None,
    calibration: Batches | None = None,
) -> Barrier:
    """The loss on the line from `a` to `b`.

    Args:
        loss: (module, *batch) → the batch's mean loss.
        batches: a list of batches, each a sequence of tensors with samples first.
        points: how many, equally spaced, or the grid itself, which must begin at 0 and end at 1.
        only: move only the parameters whose name starts so, `a` keeping the others.
        calibration: batches to recompute batch-norm statistics with.

    Raises:
        ValueError: different architectures, a grid without its ends or with fewer than three points, or a name
            that no parameter starts with.
    """
    grid = torch.linspace(0, 1, points) if isinstance(points, int) else torch.tensor([float(p) for p in points])
    if len(grid) < 3 or float(grid[0]) != 0 or float(grid[-1]) != 1 or bool((grid.diff() <= 0).any()):
        raise ValueError(f"points={points!r}: the grid must rise from 0 to 1 with at least one point between")
    _same(a, b)
    names = [n for n, _ in a.named_parameters() if n.startswith(only or "")]
    if not names:
        raise ValueError(f"no parameter's name starts with {only!r}")
    grid = grid.double()
    losses = [_mean_loss(interpolate(a, b, dict.fromkeys(names, float(t)), calibration), loss, batches) for t in grid]
    return Barrier(grid, torch.tensor(losses, dtype=torch.float64))


def layerwise_barrier(
    a: nn.Module, b: nn.Module, loss: Loss, batches: Batches, layers: Sequence[str], points: int = 11
) -> dict[str, Barrier]:
    """The barrier when one layer alone moves from `a`'s to `b`'s, for each name in `layers`."""
    return {layer: barrier(a, b, loss, batches, points, only=layer) for layer in layers}


def barrier_identity(a: nn.Module, b: nn.Module, loss: Loss, batch: Sequence[Any], nodes: int = 20) -> float:
    r"""The barrier at the middle from curvature alone, exact for losses with two continuous derivatives:

    \[ L(\tfrac{a+b}{2}) - \tfrac12 (L(a) + L(b)) = -\tfrac12 \int_0^1 \min(t, 1-t)\; d^T H(a + td)\, d\; dt,
       \qquad d = b - a, \]

    by Gauss–Legendre quadrature with `nodes` points on each half. A barrier is negative curvature along the line.
    """
    layout, start, direction = _line(a, b)
    x, w = np.polynomial.legendre.leggauss(nodes)
    total = 0.0
    for left in (0.0, 0.5):
        for t, weight in zip(left + (x + 1) / 4, w / 4):
            curved = _curvature(a, loss, batch, layout, start + float(t) * direction, direction)
            total += weight * min(t, 1 - t) * curved
    return -0.5 * total


def predicted_barrier(
    a: nn.Module, b: nn.Module, loss: Loss, batch: Sequence[Any], layers: Sequence[str] = ("",), nodes: int = 3
) -> dict[str, float]:
    r"""The second-order predictor \(-\tfrac18\, d_l^T \bar H_{ll}\, d_l\) of the middle's barrier, for each layer.

    \(d_l\) is the layer's part of \(b - a\), and \(\bar H\) the mean Hessian at `nodes` points of the line on which
    that layer alone moves; the empty name stands for the whole network.

    Source: in the form of Singh et al., Landscaping Linear Mode Connectivity (2024), section 4.
    """
    layout, start, direction = _line(a, b)
    x, w = np.polynomial.legendre.leggauss(nodes)
    found = {}
    for layer in layers:
        chosen = [n for n in layout.names if n.startswith(layer)]
        if not chosen:
            raise ValueError(f"no parameter's name starts with {layer!r}")
        part = torch.zeros_like(direction)
        for name in chosen:
            part[layout.blocks[name]] = direction[layout.blocks[name]]
        curved = [_curvature(a, loss, batch, layout, start + float(t) * part, part) for t in (x + 1) / 2]
        found[layer] = -float(np.dot(w / 2, curved)) / 8
    return found


def _line(a: nn.Module, b: nn.Module) -> tuple[curvature.Layout, Tensor, Tensor]:
    _same(a, b)
    layout = curvature.Layout(a)
    start = layout.read(a)
    return layout, start, layout.read(b) - start


def _curvature(
    model: nn.Module, loss: Loss, batch: Sequence[Any], layout: curvature.Layout, point: Tensor, direction: Tensor
) -> float:
    return float(torch.dot(direction, curvature.Hessian(model, loss, batch, layout, point)(direction)))


def split_experiment(
    train: Callable[[nn.Module, int, int], None], model: nn.Module, splits: Sequence[int], epochs: int
) -> dict[int, tuple[nn.Module, nn.Module]]:
    """Pairs of networks that share their first epochs and then part.

    Args:
        train: ``train(model, seed, epochs)`` trains in place; the seed orders the data.
        model: the common start, left as it was.
        splits: epochs of common training.
        epochs: of training altogether.

    Returns:
        split → two networks that were trained on, from there, with seeds 1 and 2 (the common part has seed 0).

    Raises:
        ValueError: a split outside [0, epochs].
    """
    if not splits or min(splits) < 0 or max(splits) > epochs:
        raise ValueError(f"splits={list(splits)} must lie between 0 and epochs={epochs}")
    trunk, done, pairs = copy.deepcopy(model), 0, {}
    for split in sorted(splits):
        if split > done:
            train(trunk, done, split - done)
            done = split
        children = []
        for seed in (1, 2):
            child = copy.deepcopy(trunk)
            if epochs > split:
                train(child, 1000 * seed, epochs - split)
            children.append(child)
        pairs[split] = (children[0], children[1])
    return pairs


def _linears(model: nn.Module) -> list[nn.Linear]:
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    chained = all(one.out_features == two.in_features for one, two in itertools.pairwise(layers))
    others = [
        type(m).__name__ for m in model.modules()
        if not isinstance(m, nn.Linear) and any(True for _ in m.parameters(recurse=False))
    ]  # fmt: skip
    if len(layers) < 2 or not chained or others:
        what = f"it also holds {', '.join(others)}" if others else f"found {len(layers)} linear layers"
        raise ValueError(f"hidden units are matched in chains of linear layers with elementwise activations; {what}")
    return layers


def permute_hidden_units(model: nn.Module, orders: Sequence[Tensor]) -> nn.Module:
    """A copy whose hidden units are put in other orders; it computes the same function.

    Args:
        model: a chain of `torch.nn.Linear` layers with elementwise activations between them.
        orders: for each hidden layer, a permutation of its units.

    Raises:
        ValueError: another kind of network, or orders that are no permutations.
    """
    changed = copy.deepcopy(model)
    layers = _linears(changed)
    if len(orders) != len(layers) - 1:
        raise ValueError(f"{len(layers) - 1} hidden layers need as many orders, not {len(orders)}")
    with torch.no_grad():
        for layer, following, order in zip(layers, layers[1:], orders, strict=False):
            if not torch.equal(order.sort().values.cpu(), torch.arange(layer.out_features)):
                raise ValueError(f"an order of {layer.out_features} units must hold each of them once")
            layer.weight.copy_(layer.weight[order].clone())
            if layer.bias is not None:
                layer.bias.copy_(layer.bias[order].clone())
            following.weight.copy_(following.weight[:, order].clone())
    return changed


def align_hidden_units(
    a: nn.Module, b: nn.Module, rounds: int = 20, generator: torch.Generator | None = None
) -> nn.Module:
    """A copy of `b` whose hidden units are matched to those of `a` by their weights.

    Layer by layer, in random order, the units' incoming and outgoing weights are matched by the Hungarian method,
    until a round changes nothing: the distance to `a` never increases.

    Raises:
        ValueError: networks that are not chains of linear layers of the same sizes.

    Source: Ainsworth, Hayase and Srinivasa, Git Re-Basin (2022), section 3.2.
    """
    _same(a, b)
    ours, model = _linears(a), copy.deepcopy(b)
    hidden = len(ours) - 1
    for _ in range(rounds):
        moved = False
        for k in torch.randperm(hidden, generator=generator).tolist():
            theirs = _linears(model)
            likeness = ours[k].weight.detach() @ theirs[k].weight.detach().mT
            likeness = likeness + ours[k + 1].weight.detach().mT @ theirs[k + 1].weight.detach()
            if ours[k].bias is not None:
                likeness = likeness + torch.outer(ours[k].bias.detach(), theirs[k].bias.detach())
            match = scipy.optimize.linear_sum_assignment(likeness.cpu().double().numpy(), maximize=True)[1]
            if (match != np.arange(len(match))).any():
                moved = True
                orders = [torch.arange(layer.out_features) for layer in theirs[:-1]]
                orders[k] = torch.from_numpy(match)
                model = permute_hidden_units(model, orders)
        if not moved:
            break
    return model
