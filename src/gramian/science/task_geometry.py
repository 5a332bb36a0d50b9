r"""Tasks whose input and target geometries are set apart by hand, and networks with one hidden layer that learn them.

k binary latents z span the inputs as a hypercube; one more direction carries their product, with strength δ. A target
such as XOR is that product: at δ = 0 no straight line finds it in the inputs, at large δ a line does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gramian.linalg.manifold.orthogonal import haar
from gramian.optim.fit import fit

__all__ = ["OneHidden", "Task", "expected_gradient_field", "latent_grid", "make_task", "parity", "train_one_hidden"]


def latent_grid(k: int) -> Float[Tensor, "conditions k"]:
    r"""All \(2^k\) combinations of k latents in {−1, 1}, the last one changing fastest.

    >>> latent_grid(2).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=k)))


def parity(z: Float[Tensor, "conditions k"]) -> Float[Tensor, "conditions 1"]:
    """The product of all latents; of two, XOR up to sign."""
    return z.prod(1, keepdim=True)


@dataclass(frozen=True)
class Task:
    """Samples of a task.

    Attributes:
        inputs: (samples, dim).
        targets: each output −1 or 1.
        conditions: the row of `grid` that a sample was made from.
        grid: the latents of each condition.
        embedding: orthonormal columns: where the latents, and last their product, lie in the input space.
    """

    inputs: Float[Tensor, "samples dim"]
    targets: Float[Tensor, "samples outputs"]
    conditions: Int[Tensor, " samples"]
    grid: Float[Tensor, "conditions k"]
    embedding: Float[Tensor, "dim directions"]

    @property
    def side(self) -> Bool[Tensor, " conditions"]:
        """For each condition whether the first output is positive."""
        first = torch.zeros(len(self.grid), dtype=torch.bool)
        first[self.conditions] = self.targets[:, 0] > 0
        return first


def make_task(
    k: int = 2,
    delta: float | int = 0.5,
    noise: float | int = 0.1,
    labels: Callable[[Tensor], Tensor] = parity,
    *,
    samples: int = 50,
    dim: int = 20,
    generator: torch.Generator | None = None,
) -> Task:
    r"""Draw \(x = U\,(z, \delta \prod_i z_i) + \sigma\epsilon\), U orthonormal, ε standard normal; targets: labels(z).

    Args:
        k: latents.
        delta: strength δ of the interaction direction.
        noise: σ, of each input.
        labels: from the grid of latents to −1 or 1, one column an output.
        samples: of each condition.
        dim: inputs, at least k + 1.
        generator: source of U and the noise.

    Raises:
        ValueError: fewer than two latents, a negative δ or σ, no sample, too few inputs, or labels that are not a
            function of the latents with values −1 and 1, both of which occur.
    """
    if k < 2:
        raise ValueError(f"k={k}: an interaction needs two latents at least")
    if delta < 0 or noise < 0 or samples < 1 or dim < k + 1:
        raise ValueError(
            f"delta={delta}, noise={noise}, samples={samples}, dim={dim}: neither may be negative, a condition has a "
            f"sample at least, and {k} latents with their product need {k + 1} inputs"
        )
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    grid = latent_grid(k)
    targets = labels(grid)
    if targets.ndim != 2 or len(targets) != len(grid) or not bool((targets.abs() == 1).all()):
        raise ValueError("labels(z) gives a matrix with a row for each combination of latents, of −1 and 1 only")
    if not bool(torch.equal(labels(grid.flip(0)).flip(0), targets)):
        raise ValueError("labels are not a function of the latents: the same latents got another label")
    if bool((targets.mean(0).abs() == 1).any()):
        raise ValueError("an output is the same for all latents: there is one class only, and nothing to learn")
    embedding = haar(dim, generator)[:, : k + 1]
    conditions = torch.arange(len(grid)).repeat(samples)
    latents = torch.cat((grid, delta * parity(grid)), 1)
    inputs = latents[conditions] @ embedding.T
    inputs = inputs + noise * torch.randn(inputs.shape, generator=generator)
    return Task(inputs, targets[conditions], conditions, grid, embedding)


class OneHidden(nn.Module):
    """One hidden layer: read(activation(write(x))).

    Args:
        inputs, hidden, outputs: widths.
        activation: of the hidden units.
        generator: source of the start: uniform with variance 1/(3 fan-in), hidden biases 0.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        activation: Callable[[Tensor], Tensor],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.write, self.read, self.activation = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs), activation
        with torch.no_grad():
            for layer in (self.write, self.read):
                drawn = 2 * torch.rand(layer.weight.shape, generator=generator) - 1
                layer.weight.copy_(drawn * layer.in_features**-0.5)
                layer.bias.zero_()

    def hidden(self, x: Float[Tensor, "samples inputs"]) -> Float[Tensor, "samples hidden"]:
        """What the hidden units say."""
        return self.activation(self.write(x))

    def forward(self, x: Float[Tensor, "samples inputs"]) -> Float[Tensor, "samples outputs"]:
        return self.read(self.hidden(x))


def train_one_hidden(
    x: Float[Tensor, "samples inputs"],
    targets: Float[Tensor, "samples outputs"],
    activation: Callable[[Tensor], Tensor],
    *,
    hidden: int = 64,
    steps: int = 1500,
    lr: float = 5e-3,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> OneHidden:
    """A network with one hidden layer, trained by Adam on the logistic loss of each output.

    Args:
        targets: −1 or 1.
        batch_size: by default all samples.
        generator: source of start and batches.

    Raises:
        ValueError: targets other than −1 and 1.
    """
    if not bool((targets.abs() == 1).all()):
        raise ValueError("targets are −1 or 1")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    model = OneHidden(x.shape[1], hidden, targets.shape[1], activation, generator)
    fit(
        model, (x, targets), lambda module, a, b: F.softplus(-b * module(a)).mean(), steps=steps, lr=lr,
        batch_size=len(x) if batch_size is None else batch_size, generator=generator, show_progress=False,
    )  # fmt: skip
    return model


def expected_gradient_field(
    weights: Float[Tensor, "points inputs"],
    x: Float[Tensor, "samples inputs"],
    residual: Float[Tensor, " _"],
    activation: Callable[[Tensor], Tensor],
    *,
    readout: float | int = 1.0,
    bias: float | int | Float[Tensor, " points"] = 0.0,
) -> Float[Tensor, "points inputs"]:
    r"""Where gradient descent moves the input weights of a hidden unit: \(a\,E_x[\,r(x)\, f'(w\cdot x + b)\, x\,]\).

    r is minus the derivative of the loss by the network's output (for squared or logistic loss, target less answer). A
    ReLU unit hears only of the samples in its half-space, where f' is 1; a tanh unit hears of all, least of those far
    out on either side.

    Args:
        weights: one point of weight space a row.
        residual: r of each sample.
        readout: a, the unit's outgoing weight.
        bias: b of each point, or of all.

    Raises:
        ValueError: residuals of another number than the samples.

    Source: Alleman, Lindsey and Fusi, Task structure and nonlinearity jointly determine learned representational
    geometry (2024), section 3.
    """
    if len(residual) != len(x):
        raise ValueError(f"{len(residual)} residuals for {len(x)} samples")
    before = (weights @ x.T + (bias[:, None] if isinstance(bias, Tensor) else bias)).detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(activation(before).sum(), before)
    return readout * (slope * residual) @ x / len(x)
