r"""A curve of low loss between two networks.

\[ \theta(s) = (1-s)^2\, \theta_a + 2 s (1-s)\, \varphi + s^2\, \theta_b, \]

whose bend φ is trained while s is drawn at random. A straight line between two solutions often crosses a ridge that
such a curve goes around.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian import optim
from gramian.optim.curvature import Layout, at

__all__ = ["BezierCurve", "bezier_connect", "mode_connectivity"]

Measure = Callable[..., Tensor]


class BezierCurve(nn.Module):
    """Two networks of one architecture and the curve between them; called, it is the network at a point of it.

    In training mode every call draws its own point; in evaluation mode the point is the attribute `place`.

    Args:
        a, b: the ends; copies are kept, and only the bend is a parameter, halfway between them at first.
        generator: of the points.

    Raises:
        ValueError: networks that differ in names or shapes, or with batch-norm statistics.
    """

    def __init__(self, a: nn.Module, b: nn.Module, generator: torch.Generator | None = None) -> None:
        super().__init__()
        shapes = [{n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (a, b)]
        if shapes[0] != shapes[1]:
            differing = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
            raise ValueError(f"the networks differ in {', '.join(differing[:4])}; a curve needs one architecture")
        if any(getattr(m, "running_mean", None) is not None for m in a.modules()):
            raise ValueError("batch-norm statistics belong to no network on the curve; fold them first")
        self._frame = [copy.deepcopy(a).requires_grad_(False)]  # in a list: its parameters are not the curve's own
        self.layout = Layout(a)
        start, stop = self.layout.read(a), self.layout.read(b)
        self.register_buffer("start", start)
        self.register_buffer("stop", stop)
        self.bend = nn.Parameter((start + stop) / 2)
        self.place = 0.5
        self.generator = generator

    def at(self, place: float | int | Tensor) -> Float[Tensor, " size"]:
        """The flat parameters at a point between 0 and 1."""
        s = place
        return (1 - s) ** 2 * self.start + 2 * s * (1 - s) * self.bend + s**2 * self.stop

    def network(self, place: float | int) -> nn.Module:
        """A network of its own at a point of the curve."""
        made = copy.deepcopy(self._frame[0])
        self.layout.write(made, self.at(place).detach())
        return made.requires_grad_(True).eval()

    def forward(self, *inputs: Any) -> Any:
        """The outputs of the network at a point of the curve."""
        place = float(torch.rand((), generator=self.generator)) if self.training else self.place
        return at(self._frame[0], self.layout.unflatten(self.at(place)))(*inputs)

    @torch.no_grad()
    def along(self, measure: Measure, batch: Sequence[Any], points: int = 9) -> Float[Tensor, " points"]:
        """A measure ``(module, *batch)`` at points equally spaced from end to end; the curve is left as it was."""
        kept = self.training, self.place
        self.eval()
        values = []
        for place in torch.linspace(0, 1, points).tolist():
            self.place = place
            values.append(float(measure(self, *batch)))
        self.place = kept[1]
        self.train(kept[0])
        return torch.tensor(values, dtype=torch.float64)


def bezier_connect(
    a: nn.Module,
    b: nn.Module,
    loss: Measure,
    data: Any,
    *,
    steps: int = 100,
    lr: float = 1e-2,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
) -> BezierCurve:
    r"""The curve between two networks whose bend has least \(\int_0^1 L(\theta(s))\, ds\), by stochastic descent.

    Args:
        loss: (module, *batch) → the batch's mean loss.
        data: as of `gramian.optim.fit`.
        steps, lr, batch_size: of Adam's descent.

    Raises:
        ValueError: networks of different architectures, or with batch-norm statistics.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov & Wilson (2018), section 3.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    curve = BezierCurve(a, b, generator)
    optim.fit(
        curve, data, loss, steps=steps, lr=lr, batch_size=batch_size, generator=generator, show_progress=False,
        optimizer=lambda groups: torch.optim.Adam(groups),
    )  # fmt: skip
    return curve


def mode_connectivity(values: Float[Tensor, " points"]) -> float:
    r"""How well a curve connects its ends, from a loss or an error along it:

    \[ mc = \tfrac12 (L(0) + L(1)) - L(s^*), \qquad s^* = \arg\max_s \bigl|\tfrac12 (L(0) + L(1)) - L(s)\bigr|. \]

    Negative: a barrier stands between the ends. Positive: the ends lie higher than what is between them, and are
    trained poorly. Near zero: well connected.

    Raises:
        ValueError: fewer than three points, or values that are not finite.

    Source: Yang et al., "Taxonomizing local versus global structure in neural network loss landscapes" (2021).

    >>> mode_connectivity(torch.tensor([0.25, 0.75, 0.25]))
    -0.5
    """
    if len(values) < 3 or not bool(torch.isfinite(values).all()):
        raise ValueError(f"{values.tolist()}: at least three finite values are needed, the ends among them")
    wide = values.double()
    gaps = (wide[0] + wide[-1]) / 2 - wide
    return float(gaps[gaps.abs().argmax()])
