r"""Activation maximization: climb from a picture to one that a unit of a network answers to most.

The plain ascent gives a picture full of high frequencies. Four regularizers keep it readable: the picture is shifted by
a random pixel or two before each look (jitter), blurred a little less after each step, held smooth (total variation),
and painted from the middle outwards (centre bias), so that one object grows instead of many fragments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.analysis.explain.faithfulness import blurred
from gramian.analysis.explain.freeze import parameters_at_rest
from gramian.analysis.inspection.activations import evaluated
from gramian.analysis.taps import Taps

__all__ = ["Maximized", "Prior", "maximize", "total_variation", "unit_activation"]


def total_variation(x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, " batch"]:
    r"""Squared steps between neighbouring pixels along both axes, summed over channels, divided by the pixels.

    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    tensor([0.5000])
    """
    steps = x.diff(dim=2).square().sum((1, 2, 3)) + x.diff(dim=3).square().sum((1, 2, 3))
    return steps / (x.shape[2] * x.shape[3])


@dataclass(frozen=True)
class Prior:
    """What the pictures are held to; all off by default.

    Attributes:
        jitter: largest random shift, in pixels, before each look (the picture is shifted back after it).
        blur: (first, last) width of the Gaussian blur after each step, in pixels, falling linearly; below a quarter
            of a pixel there is none.
        smoothness: weight of `total_variation`, subtracted from the activation.
        centre: share of the picture's side that the first steps may paint; the painted part, a round Gaussian window,
            widens linearly and is the whole picture from half of the steps on. 1 paints all from the start.
        ball: largest Euclidean norm of a picture (less `middle`).
        middle: the value of nothing, from which `ball` is measured.
        bounds: smallest and largest value of a pixel.

    Raises:
        ValueError: a negative jitter, blur or smoothness, a centre outside (0, 1], a ball of no size, bounds that
            hold nothing.
    """

    jitter: int = 0
    blur: tuple[float, float] = (0.0, 0.0)
    smoothness: float | int = 0.0
    centre: float | int = 1.0
    ball: float | None = None
    middle: float | int = 0.0
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.jitter < 0 or min(self.blur) < 0 or self.smoothness < 0:
            raise ValueError(f"jitter={self.jitter}, blur={self.blur}, smoothness={self.smoothness}: none is negative")
        if not 0 < self.centre <= 1:
            raise ValueError(f"centre={self.centre} is the share of the side painted first, in (0, 1]")
        if self.ball is not None and not self.ball > 0:
            raise ValueError(f"ball={self.ball} must be a positive radius, or None")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds={self.bounds} hold no pixel: give (smallest, largest)")


@dataclass(frozen=True)
class Maximized:
    """Where an ascent ended.

    Attributes:
        images: one for each start.
        activations: of these images.
        history: activations before each step, one row a step.
    """

    images: Float[Tensor, "batch channels height width"]
    activations: Float[Tensor, " batch"]
    history: Float[Tensor, "steps batch"]


Score = Callable[[Tensor], Tensor]


def unit_activation(model: nn.Module, layer: str, unit: int) -> Score:
    """The function from pictures to the activation of one unit (for a convolution: its mean over places).

    Args:
        layer: a module's dotted name; ``""`` is the model itself, whose units are the class scores.
        unit: number of the unit, or of the channel.

    Raises:
        ValueError: no such layer; when called, no such unit.
    """
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    taps = Taps(model, {layer: keep}, mode="write")

    def score(x: Tensor) -> Tensor:
        kept.clear()
        with taps:
            model(x)
        if len(kept) != 1:
            raise ValueError(f"{layer!r} ran {len(kept)} times in one pass: take a layer that runs once")
        found = kept[0]
        if found.ndim < 2 or not 0 <= unit < found.shape[1]:
            raise ValueError(f"unit={unit}: {layer or 'the model'} has units 0 to {found.shape[1] - 1}")
        return found[:, unit].flatten(1).mean(1) if found.ndim > 2 else found[:, unit]

    return score


def maximize(
    model: nn.Module,
    score: Score,
    start: Float[Tensor, "batch channels height width"],
    *,
    steps: int = 200,
    rate: float | int = 1.0,
    prior: Prior | None = None,
    generator: torch.Generator | None = None,
) -> Maximized:
    r"""Climb from each start along the gradient, of one and the same length at every step.

    A step is \(x \leftarrow x + \eta_t\, w_t \odot g / \|g\|\), g the gradient of the activation less the weighted
    total variation, \(w_t\) the centre's window and \(\eta_t\) falling linearly from `rate` to a hundredth of it; then
    blur, bounds and ball. The length of a step does not depend on the unit's scale, so one rate fits all layers.

    Args:
        model: whose parameters rest and whose mode is evaluation during the ascent; left as found.
        score: from pictures to one number each, such as `unit_activation`.
        start: where to begin; each picture is climbed for itself.
        rate: Euclidean length of the first step.
        generator: source of the jitter.

    Raises:
        ValueError: no step, no positive rate, a start that is not finite, or an activation that does not depend on the
            picture in a way that can be differentiated.

    Source: Nguyen, Yosinski and Clune, Multifaceted Feature Visualization (2016), section 2; the schedules and the
    normalised step are ours.
    """
    prior = Prior() if prior is None else prior
    if steps < 1 or not rate > 0:
        raise ValueError(f"steps={steps}, rate={rate}: at least one step of a positive length is needed")
    if not bool(torch.isfinite(start).all()):
        raise ValueError("the start holds NaN or infinite numbers")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    x, history = start.detach().clone(), []
    with evaluated(model), parameters_at_rest(model):
        for step in range(steps):
            done = step / max(steps - 1, 1)
            gradient, value = _slope(score, x, prior, generator)
            history.append(value)
            length = gradient.flatten(1).norm(dim=1)[:, None, None, None]
            move = gradient / length.clamp(min=torch.finfo(x.dtype).tiny)
            x = x + rate * (1 - 0.99 * done) * _window(x, prior.centre, done) * move
            width = prior.blur[0] + (prior.blur[1] - prior.blur[0]) * done
            if width >= 0.25:
                x = blurred(x, width)
            x = _held(x, prior)
        with torch.no_grad():
            final = score(x).detach()
    return Maximized(x, final, torch.stack(history))


def _slope(score: Score, x: Tensor, prior: Prior, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The gradient of what is climbed, and the activation."""
    shift = [0, 0]
    if prior.jitter:
        shift = torch.randint(-prior.jitter, prior.jitter + 1, (2,), generator=generator).tolist()
    leaf = x.requires_grad_()
    with torch.enable_grad():
        value = score(leaf.roll(shift, (2, 3)) if any(shift) else leaf)
        if value.shape != (len(x),):
            raise ValueError(
                f"the activation has shape {tuple(value.shape)}; one number for each of {len(x)} is needed"
            )
        if not value.requires_grad:
            raise ValueError("the activation does not depend on the picture in a way that can be differentiated")
        goal = value.sum()
        if prior.smoothness:
            goal = goal - prior.smoothness * total_variation(leaf).sum()
        (gradient,) = torch.autograd.grad(goal, leaf)
    x.requires_grad_(False)
    if not bool(torch.isfinite(gradient).all()):
        raise ValueError("the activation's gradient is not finite: look at what goes into the model")
    return gradient, value.detach()


def _window(x: Tensor, centre: float | int, done: float) -> Tensor:
    """Where the picture may be painted, when a share `done` of the steps is taken: 1 in the middle."""
    if centre >= 1 or done >= 0.5:
        return torch.ones((), dtype=x.dtype, device=x.device)
    width = (centre + (1 - centre) * 2 * done) / 2  # in half sides
    rows, columns = (
        (torch.arange(n, dtype=x.dtype, device=x.device) - (n - 1) / 2) / math.ceil(n / 2) for n in x.shape[2:]
    )
    return (-(rows[:, None].square() + columns.square()) / (2 * width**2)).exp()


def _held(x: Tensor, prior: Prior) -> Tensor:
    if prior.bounds is not None:
        x = x.clamp(*prior.bounds)
    if prior.ball is not None:
        away = x - prior.middle
        length = away.flatten(1).norm(dim=1)[:, None, None, None]
        x = prior.middle + away * (prior.ball / length.clamp(min=prior.ball))
    return x
