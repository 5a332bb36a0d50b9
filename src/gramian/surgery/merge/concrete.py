"""Concrete subspace merging: learn, by gradients through a relaxed mask, which weights the task vectors may share."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian import optim
from gramian.surgery.merge import arithmetic, streams

__all__ = [
    "Collapse",
    "Concrete",
    "ConcreteMask",
    "bilevel",
    "concrete_merge",
    "largest_share",
    "merged_state",
    "prediction_entropy",
]

Loss = Callable[[Callable[[Tensor], Tensor], Any], Tensor]
"""(the merged network as a function of its input, a batch) → a scalar."""


class Collapse(UserWarning):
    """The merged network gives nearly one class for everything: confident, and wrong."""


class ConcreteMask(nn.Module):
    r"""A random mask of a network's weights, relaxed so that gradients reach its logits.

    \(m = \sigma\bigl((x + \log u - \log(1 - u)) / t\bigr)\), u uniform: a relaxed Bernoulli variable with logits x and
    temperature t, for which \(P(m > \tfrac12) = \sigma(x)\) at any t. `rescaled` divides each tensor's mask by its
    mean, so that as much of the task vectors is kept as without a mask.

    Args:
        shapes: of the masked tensors, by name.
        temperature: t > 0; towards 0 the mask becomes binary.
        start: of all logits.

    Raises:
        ValueError: no tensors, or a temperature that is not positive.

    Source: Maddison et al., "The Concrete distribution" (2017); Tang et al. (2023), section 4.1.
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], temperature: float | int = 0.5, start: float | int = 0.0
    ) -> None:
        super().__init__()
        if not shapes:
            raise ValueError("a mask needs at least one tensor to cover")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature} must be positive and finite")
        self.names, self.temperature = tuple(shapes), float(temperature)
        self.logits = nn.ParameterList(nn.Parameter(torch.full(tuple(s), float(start))) for s in shapes.values())

    def soft(self) -> dict[str, Tensor]:
        r"""The probabilities \(\sigma(x)\): no randomness."""
        return {name: x.sigmoid() for name, x in zip(self.names, self.logits, strict=True)}

    def sample(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """One relaxed draw, differentiable in the logits."""
        found = {}
        for name, x in zip(self.names, self.logits, strict=True):
            u = torch.rand(x.shape, generator=generator, dtype=x.dtype).clamp(1e-7, 1 - 1e-7).to(x.device)
            found[name] = ((x + u.logit()) / self.temperature).sigmoid()
        return found

    def rescaled(self, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each tensor of a mask over its mean: they sum to their numbers of entries.

        Raises:
            ValueError: a tensor's mask that is zero everywhere.
        """
        found = {}
        for name, m in mask.items():
            mean = m.mean()
            if not float(mean.detach()) > 0:
                raise ValueError(f"the mask of {name!r} is zero everywhere: nothing of the task vectors would be left")
            found[name] = m / mean
        return found


class Concrete(NamedTuple):
    """A merge that was learned.

    Attributes:
        state: the merged network's tensors.
        mask: the logits' mask.
        scales: λ, one an expert (one row a tensor where ``inner="layer"``).
        losses: of every step.
    """

    state: dict[str, Tensor]
    mask: ConcreteMask
    scales: Tensor
    losses: list[float]


def prediction_entropy(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    r"""Mean entropy of the predictions, \(-\frac1n \sum_i \sum_c p_{ic} \log p_{ic}\), in nats, without labels."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).mean()


def largest_share(logits: Float[Tensor, "batch classes"]) -> float:
    """The share of predictions that are the most frequent class: near 1 the network has collapsed."""
    return float(logits.argmax(-1).bincount().max()) / len(logits)


def merged_state(
    start: Mapping[str, Tensor], vectors: Sequence[Mapping[str, Tensor]], scales: Tensor, mask: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    r"""\(\theta_0 + \sum_i \lambda_i\, m \odot \tau_i\), differentiable in λ and in the (rescaled) mask.

    Args:
        scales: λ of shape (experts,), or (tensors, experts).
    """
    found = {}
    for row, name in enumerate(vectors[0]):
        own = scales if scales.ndim == 1 else scales[row]
        change = sum(own[i] * vector[name] for i, vector in enumerate(vectors))
        found[name] = start[name] + (change if name not in mask else mask[name] * change)
    return found


def concrete_merge(
    model: nn.Module,
    experts: Sequence[streams.Source],
    batches: Sequence[Any],
    *,
    objective: str | Loss = "entropy",
    inner: str = "none",
    scale: float | int = 0.3,
    steps: int = 200,
    lr: float = 1e-3,
    inner_lr: float = 1e-3,
    temperature: float | int = 0.5,
    soft: bool = False,
    generator: torch.Generator | None = None,
) -> Concrete:
    r"""Learn a mask shared by all task vectors, so that the merged network does well on every task at once.

    The upper level changes the mask's logits x by Adam; the merge is
    \(\theta_0 + \sum_i \lambda_i \tau_i \odot m / \bar m\). With ``inner`` the lower level first takes a gradient step
    on λ, \(\lambda' = \lambda - \eta \nabla_\lambda L(x, \lambda)\), and the upper level differentiates through it.

    Args:
        model: the network \(\theta_0\) that the experts were trained from; left as it is.
        experts: their states.
        batches: one a task: inputs (``"entropy"``) or (inputs, labels) (``"supervised"``), or what your loss takes.
        inner: λ fixed (task arithmetic), learned one an expert, or one an expert and tensor (AdaMerging).
        scale: λ, or its start.
        steps, lr: of the upper level; inner_lr: η.
        soft: use the probabilities in place of random masks while learning; the result always does.
        generator: what the masks are drawn from.

    Raises:
        ValueError: fewer than two experts, no batches, names or shapes that differ, a temperature or a number of steps
            that is not positive, an unknown objective or inner level.

    Warns:
        Collapse: nine tenths of a task's predictions are one class (checked with the two built-in objectives): minimal
            entropy is also reached by a network that always says the same.

    Source: Tang et al., "Concrete Subspace Learning" (2023), algorithms 1 and 2.
    """
    if len(experts) < 2:
        raise ValueError(f"{len(experts)} expert: a merge needs at least two networks")
    if not batches or steps < 1:
        raise ValueError(f"{len(batches)} batches and steps={steps}: at least one each is needed")
    if inner not in ("none", "task", "layer"):
        raise ValueError(f"inner={inner!r} is not one of none, task, layer")
    loss_of, outputs = _objective(objective)
    network = copy.deepcopy(model).eval().requires_grad_(False)
    vectors = arithmetic.task_vectors(network, experts)
    trained = {name for name, _ in network.named_parameters()}
    start = {n: v.detach() for n, v in network.state_dict().items() if n in vectors[0]}
    mask = ConcreteMask({n: v.shape for n, v in start.items() if n in trained}, temperature)
    mask.to(next(iter(start.values())).device)
    shape = (len(vectors[0]), len(experts)) if inner == "layer" else (len(experts),)
    scales = torch.full(shape, float(scale), device=next(iter(start.values())).device)
    source = torch.Generator().manual_seed(0) if generator is None else generator
    losses: list[float] = []

    def total(state: Mapping[str, Tensor]) -> Tensor:
        def run(x: Tensor) -> Tensor:
            return torch.func.functional_call(network, dict(state), (x,))

        return sum(loss_of(run, batch) for batch in batches) / len(batches)

    def objective_of(module: nn.Module, *_: Tensor) -> Tensor:
        nonlocal scales
        drawn = mask.rescaled(mask.soft() if soft else mask.sample(source))
        if inner == "none":
            value = total(merged_state(start, vectors, scales, drawn))
        else:
            value, scales = bilevel(lambda s: total(merged_state(start, vectors, s, drawn)), scales, inner_lr)
        losses.append(float(value.detach()))
        return value

    # the batches are fixed: a round is one step
    optim.fit(
        mask, [torch.zeros(1)], objective_of, steps=steps, lr=lr, batch_size=1, generator=source, show_progress=False,
        optimizer=torch.optim.Adam,
    )  # fmt: skip
    with torch.no_grad():
        state = dict(network.state_dict()) | merged_state(start, vectors, scales, mask.rescaled(mask.soft()))
        state = {n: v.to(network.state_dict()[n].dtype) for n, v in state.items()}
        if outputs is not None:
            _warn_of_collapse([outputs(lambda x: torch.func.functional_call(network, state, (x,)), b) for b in batches])
    return Concrete(state, mask, scales, losses)


def bilevel(lower: Callable[[Tensor], Tensor], scales: Tensor, rate: float | int) -> tuple[Tensor, Tensor]:
    r"""The loss after one gradient step on λ, \(L(\lambda - \eta \nabla L(\lambda))\), and the new λ, detached.

    The value is differentiable in all that `lower` depends on, through the step as well.
    """
    at = scales.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(lower(at), at, create_graph=True)
    moved = at - rate * gradient
    return lower(moved), moved.detach()


def _objective(objective: Any) -> tuple[Loss, Callable[..., Tensor] | None]:
    if objective == "entropy":
        return lambda run, x: prediction_entropy(run(x)), lambda run, x: run(x)
    if objective == "supervised":
        return (
            lambda run, batch: nn.functional.cross_entropy(run(batch[0]), batch[1]),
            lambda run, batch: run(batch[0]),
        )
    if callable(objective):
        return objective, None
    raise ValueError(f"objective={objective!r} is neither 'entropy' nor 'supervised' nor a function")


def _warn_of_collapse(logits: Sequence[Tensor]) -> None:
    shares = [largest_share(one) for one in logits]
    if max(shares) > 0.9:
        warnings.warn(
            f"{100 * max(shares):.0f}% of a task's predictions are one class: the merge has collapsed; lower lr=, or "
            "use labels (objective='supervised')",
            Collapse,
            stacklevel=3,
        )
