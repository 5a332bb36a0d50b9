r"""Linear interpreters: the affine map that a network is for one input.

With every nonlinear unit frozen at what it does for \(x\) (`gramian.analysis.explain.freeze`), a network is
\(u \mapsto F u + r\), and \(F x + r\) is its answer. Rows of \(F\) say which inputs vote for an output, columns what
one input's impulse leaves in the output, singular vectors which patterns pass; the residual \(r\) is what the
biases, pushed through the same frozen network, add.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.analysis.explain.freeze import Frozen, Record, check_evaluation, parameters_at_rest
from gramian.linalg.spectral import lanczos

__all__ = ["LinearInterpreter", "LinearScope", "Singular"]


@dataclass(frozen=True)
class Singular:
    r"""The largest singular values of \(F\), with output patterns as `left` and input patterns as `right`."""

    left: Float[Tensor, "count *output_shape"]
    values: Float[Tensor, " count"]
    right: Float[Tensor, "count *input_shape"]


class LinearInterpreter:
    r"""\(u \mapsto F u + r\), a network frozen at one input; made by `LinearScope`.

    Attributes:
        x: the input that it was frozen at.
        y: the network's answer there.
        residual: r, the frozen network's answer to zero.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, records: list[Record]) -> None:
        self.model, self.x, self.y, self._records = model, x, y, records
        self.residual = self.replay(torch.zeros_like(x))
        self._graph: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of F: the sizes of output and input."""
        return self.y.numel(), self.x.numel()

    def replay(self, u: Float[Tensor, "*input_shape"]) -> Float[Tensor, "*output_shape"]:
        """F u + r: the frozen network's answer to another input.

        Raises:
            ValueError: an input of another shape than the one that it was frozen at.
        """
        self._fits(u, self.x, "input")
        with torch.no_grad(), Frozen(self._records):
            return self.model(u)

    def matvec(self, u: Float[Tensor, "*input_shape"]) -> Float[Tensor, "*output_shape"]:
        """F u: an input pattern pushed forward.

        Raises:
            ValueError: an input of another shape.
        """
        return self.replay(u) - self.residual

    def rmatvec(self, w: Float[Tensor, "*output_shape"]) -> Float[Tensor, "*input_shape"]:
        """Fᵀ w: an output pattern pulled back.

        Raises:
            ValueError: an output of another shape.
        """
        self._fits(w, self.y, "output")
        u, out = self._frozen_graph()
        return torch.autograd.grad(out, u, w, retain_graph=True)[0]

    def rows(self, outputs: Sequence[int] | Tensor, *, at_once: int = 16) -> Float[Tensor, "count *input_shape"]:
        """Rows of F, as inputs: how each input votes for the outputs of these places (of the flattened output).

        Args:
            at_once: how many are pulled back together.

        Raises:
            ValueError: a place outside the output.
        """
        places = self._places(outputs, self.y)
        u, out = self._frozen_graph()
        found = []
        for some in places.split(at_once):
            w = torch.zeros(len(some), self.y.numel(), dtype=self.y.dtype, device=self.y.device)
            w[torch.arange(len(some)), some] = 1
            w = w.view(len(some), *self.y.shape)
            found.append(torch.autograd.grad(out, u, w, retain_graph=True, is_grads_batched=True)[0])
        return torch.cat(found)

    def columns(self, inputs: Sequence[int] | Tensor) -> Float[Tensor, "count *output_shape"]:
        """Columns of F, as outputs: what an impulse at these places (of the flattened input) leaves.

        Raises:
            ValueError: a place outside the input.
        """
        found = []
        for place in self._places(inputs, self.x):
            impulse = torch.zeros_like(self.x)
            impulse.view(-1)[place] = 1
            found.append(self.matvec(impulse))
        return torch.stack(found)

    def svd(
        self,
        count: int,
        *,
        steps: int | None = None,
        tolerance: float = 1e-4,
        generator: torch.Generator | None = None,
    ) -> Singular:
        """The `count` largest singular values and vectors, by Lanczos on FᵀF.

        Args:
            steps: products with FᵀF; by default 4·count + 20.
            tolerance: of a singular value, relative to the largest.

        Raises:
            ValueError: count below 1 or above the smaller side of F.

        Warns `NotConverged` where a residual is above the tolerance after all steps.
        """
        if not 1 <= count <= min(self.shape):
            raise ValueError(f"count={count} of a map of shape {self.shape}: 1 to {min(self.shape)} are there")
        size = self.x.numel()

        def product(v: Tensor) -> Tensor:
            return self.rmatvec(self.matvec(v.view_as(self.x))).flatten()

        found = lanczos.lanczos(
            product, size, min(size, steps or 4 * count + 20), generator=generator, dtype=self.x.dtype,
            device=self.x.device,
        )  # fmt: skip
        squares, inner = found.ritz()
        count = min(count, len(squares))
        top = max(float(squares[-1]), torch.finfo(torch.float64).tiny)
        worst = float(found.residuals()[-count:].max()) / top
        if worst > tolerance:
            warnings.warn(
                f"after {len(squares)} products a singular pair has residual {worst:.2g} of the largest, above "
                f"tolerance={tolerance:g}; give more steps=",
                lanczos.NotConverged,
                stacklevel=2,
            )
        values = squares[-count:].flip(0).clamp(min=0).sqrt().to(self.x.dtype)
        right = (found.basis @ inner[:, -count:].flip(1).to(self.x.dtype)).mT.reshape(count, *self.x.shape)
        images = torch.stack([self.matvec(v) for v in right])
        lengths = images.flatten(1).norm(dim=1).clamp(min=torch.finfo(images.dtype).tiny)
        return Singular(images / lengths.view(-1, *[1] * self.y.ndim), values, right)

    def operator(self) -> Any:
        """F as a scipy LinearOperator on flattened arrays of the CPU."""
        from scipy.sparse.linalg import LinearOperator

        def forward(u: Any) -> Any:
            return self.matvec(torch.as_tensor(u, dtype=self.x.dtype).view_as(self.x)).flatten().numpy()

        def back(w: Any) -> Any:
            return self.rmatvec(torch.as_tensor(w, dtype=self.y.dtype).view_as(self.y)).flatten().numpy()

        return LinearOperator(self.shape, matvec=forward, rmatvec=back, dtype=self.residual.numpy().dtype)

    def _frozen_graph(self) -> tuple[Tensor, Tensor]:
        if self._graph is None:
            with torch.enable_grad(), parameters_at_rest(self.model), Frozen(self._records):
                # cloned, so that a unit that writes over its input does not write over a leaf
                u = torch.zeros_like(self.x).requires_grad_()
                self._graph = (u, self.model(u.clone()))
        return self._graph

    @staticmethod
    def _fits(given: Tensor, like: Tensor, what: str) -> None:
        if given.shape != like.shape:
            raise ValueError(
                f"an {what} of shape {tuple(given.shape)} for an interpreter of shape {tuple(like.shape)}: freeze the "
                "network at an input of that shape"
            )

    @staticmethod
    def _places(places: Sequence[int] | Tensor, of: Tensor) -> Tensor:
        found = torch.as_tensor(places, device=of.device).flatten().long()
        if not len(found) or int(found.min()) < 0 or int(found.max()) >= of.numel():
            raise ValueError(
                f"places {found.tolist()[:8]} of {of.numel()}: give at least one, each in 0…{of.numel() - 1}"
            )
        return found


class LinearScope:
    """Freeze a network at inputs.

    Args:
        model: any network of one input, in evaluation mode; it is run as it is, and left as found.

    Raises:
        ValueError: dropout or batch normalization in training mode.

    Source: Navarrete Michelini, Liu, Lu and Jiang, A Tour of Convolutional Networks Guided by Linear Interpreters
    (2019), section 3.

    >>> relu = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> _ = relu[0].weight.data.copy_(torch.tensor([[1.0, 2.0], [1.0, -1.0]])), relu[0].bias.data.fill_(0.5)
    >>> interpreter = LinearScope(relu)(torch.tensor([1.0, 3.0]))
    >>> interpreter.rows([0, 1]), interpreter.residual  # the second unit is off
    (tensor([[1., 2.],
            [0., 0.]]), tensor([0.5000, 0.0000]))
    """

    def __init__(self, model: nn.Module) -> None:
        check_evaluation(model)
        self.model = model

    def __call__(self, x: Float[Tensor, "*input_shape"]) -> LinearInterpreter:
        """The network frozen at `x` (the whole tensor, batch axis and all, is one input).

        Raises:
            Unsupported: a function of the input that cannot be frozen; the message names it.
            ValueError: an input or an answer that is not finite, or an answer that is no tensor.
        """
        check_evaluation(self.model)
        scope = Frozen()
        with torch.enable_grad(), parameters_at_rest(self.model):
            u = x.detach().clone().requires_grad_()
            with scope:
                y = self.model(u.clone())
        if not isinstance(y, Tensor):
            raise ValueError(f"the model returns a {type(y).__name__}: wrap it so that it returns one tensor")
        if not math.isfinite(float(y.detach().sum())):
            raise ValueError("the model's answer is not finite: look at what goes into it")
        return LinearInterpreter(self.model, x.detach(), y.detach(), scope.records)
