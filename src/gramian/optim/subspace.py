r"""Train a network in a random subspace, \(\theta = \theta_0 + P\,\theta_d\), and find how small it may be.

P has unit columns and comes from a seed: dense (Gaussian, orthonormalised), sparse (\(\sqrt D\) signs a column) or
Fastfood (Hadamard transforms, signs, permutations and Gaussian diagonals); the last two are never stored as matrices.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from gramian.linalg.signal.hadamard import fwht
from gramian.optim.curvature import Layout

__all__ = [
    "IntrinsicDimension", "NotReached", "Projection", "SubspaceParametrization", "intrinsic_dimension",
]  # fmt: skip

Kind = Literal["dense", "sparse", "fastfood"]
KINDS = ("dense", "sparse", "fastfood")


class NotReached(UserWarning):
    """No subspace of the grid reached the asked share of the baseline."""


class Projection:
    r"""A random D × d matrix with unit columns, as a linear map.

    Args:
        size: D.
        dimension: d, from 1 to D.
        kind: ``"dense"``: Gaussian, columns orthonormal, O(Dd) memory and time. ``"sparse"``: each column has
            \(\sqrt D\) entries of one size and random signs, one in each of as many stretches of rows; O(d√D).
            ``"fastfood"``: blocks \(H G \Pi H B\) of the next power of two n ≥ d stacked to D rows; O(D) memory,
            O(D log d) time.
        seed: of everything random.
        dtype, device: of the numbers.

    Attributes:
        fingerprint: a hash of the random numbers drawn, the same wherever the seed gives the same ones.

    Raises:
        ValueError: d below 1 or above D, or an unknown kind.

    Source: Li, Farkhoor, Liu & Yosinski (2018), section 2 and supplement S7.
    """

    def __init__(
        self, size: int, dimension: int, kind: Kind = "fastfood", seed: int = 0,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if not 1 <= dimension <= size:
            raise ValueError(f"dimension={dimension} must lie between 1 and the number of parameters, {size}")
        self.size, self.dimension, self.kind, self.seed = size, dimension, kind, seed
        generator = torch.Generator().manual_seed(seed)
        self._tensors: dict[str, Tensor] = {}
        getattr(self, f"_draw_{kind}")(generator)
        digest = hashlib.sha256()
        for tensor in self._tensors.values():
            digest.update(tensor.contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]
        for name, tensor in self._tensors.items():
            self._tensors[name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        if kind == "dense":  # hashed as drawn: the factorization's last bits differ between machines
            self._tensors["matrix"] = torch.linalg.qr(self._tensors["matrix"].double()).Q.to(dtype)
        if kind == "fastfood":
            self._tensors["scale"] = self._column_norms().reciprocal()

    def _draw_dense(self, generator: torch.Generator) -> None:
        self._tensors["matrix"] = torch.randn(self.size, self.dimension, generator=generator)

    def _draw_sparse(self, generator: torch.Generator) -> None:
        entries = max(1, round(math.sqrt(self.size)))
        edges = torch.arange(entries + 1) * self.size // entries
        width = (edges[1:] - edges[:-1]).expand(self.dimension, entries)
        inside = (torch.rand(self.dimension, entries, generator=generator, dtype=torch.float64) * width).long()
        signs = torch.randint(2, (self.dimension, entries), generator=generator) * 2 - 1
        self._tensors |= {"rows": edges[:-1] + inside, "values": signs.double() / math.sqrt(entries)}

    def _draw_fastfood(self, generator: torch.Generator) -> None:
        n = 1 << (self.dimension - 1).bit_length()
        blocks = -(-self.size // n)
        self._tensors = {
            "signs": (torch.randint(2, (blocks, n), generator=generator) * 2 - 1).to(torch.int8),
            "order": torch.rand(blocks, n, generator=generator, dtype=torch.float64).argsort(1).int(),
            "gauss": torch.randn(blocks, n, generator=generator),
        }

    def _column_norms(self) -> Tensor:
        """√(Σ g² / n) over whole blocks; the last one, cut to D rows, is multiplied out."""
        blocks, n = self._tensors["signs"].shape
        whole = self._tensors["gauss"][:-1].square().sum() / n
        unit = torch.eye(self.dimension).to(self._tensors["gauss"])
        chunk = max(1, self.size // n)  # as many columns at a time as keep this in the memory of a few θ
        last = [self._fastfood(part, blocks - 1).square().sum(1) for part in unit.split(chunk)]
        return (whole + torch.cat(last)).sqrt()

    def _fastfood(self, v: Tensor, first: int = 0) -> Tensor:
        """H G Π H B v in the blocks from `first` on."""
        parts = {name: self._tensors[name][first:] for name in ("signs", "order", "gauss")}
        n = parts["signs"].shape[1]
        padded = torch.nn.functional.pad(v, (0, n - self.dimension)).unsqueeze(-2)
        mixed = fwht(padded * parts["signs"])
        mixed = mixed.gather(-1, parts["order"].long().expand_as(mixed)) * parts["gauss"]
        return fwht(mixed).flatten(-2)[..., : self.size - first * n]

    @property
    def nbytes(self) -> int:
        """The memory that the map holds."""
        return sum(t.nbytes for t in self._tensors.values())

    @property
    def draws(self) -> dict[str, Tensor]:
        """What the map is made of, by name."""
        return dict(self._tensors)

    def apply(self, v: Float[Tensor, "*batch dimension"]) -> Float[Tensor, "*batch size"]:
        """P v; differentiable in v."""
        if v.shape[-1] != self.dimension:
            raise ValueError(f"v has {v.shape[-1]} coordinates; the subspace has {self.dimension}")
        if self.kind == "dense":
            return v @ self._tensors["matrix"].T
        if self.kind == "sparse":
            spread = (v.unsqueeze(-1) * self._tensors["values"]).flatten(-2)
            out = spread.new_zeros(*v.shape[:-1], self.size)
            return out.index_add(-1, self._tensors["rows"].flatten(), spread)
        return self._fastfood(v * self._tensors["scale"])

    def adjoint(self, u: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch dimension"]:
        """Pᵀ u."""
        if u.shape[-1] != self.size:
            raise ValueError(f"u has {u.shape[-1]} entries; the full space has {self.size}")
        parts = self._tensors
        if self.kind == "dense":
            return u @ parts["matrix"]
        if self.kind == "sparse":
            return (u[..., parts["rows"]] * parts["values"]).sum(-1)
        blocks, n = parts["signs"].shape
        padded = torch.nn.functional.pad(u, (0, blocks * n - self.size)).unflatten(-1, (blocks, n))
        back = fwht(padded) * parts["gauss"]
        back = torch.zeros_like(back).scatter(-1, parts["order"].long().expand_as(back), back)
        mixed = fwht(back) * parts["signs"]
        return mixed.sum(-2)[..., : self.dimension] * parts["scale"]

    def matrix(self) -> Float[Tensor, "size dimension"]:
        """P as a matrix: for small sizes."""
        eye = torch.eye(self.dimension).to(next(t for t in self._tensors.values() if t.is_floating_point()))
        return self.apply(eye).T


class SubspaceParametrization(nn.Module):
    r"""A network whose parameters move in a random subspace only: \(\theta = \theta_0 + P\,\theta_d\).

    Its one parameter is ``coordinates``, \(\theta_d\), which starts at zero; θ₀ are the values that the network's
    trainable parameters have now. The network itself is left as it is; `write` puts θ into it.

    Args:
        model: the network; its normalization layers may not keep running statistics, which training would change
            outside the subspace.
        dimension, kind, seed: of the `Projection`.

    Raises:
        ValueError: nothing trainable, parameters of several dtypes, running statistics, or a dimension out of range.

    >>> inside = SubspaceParametrization(nn.Linear(8, 4), dimension=5)
    >>> {name: tuple(p.shape) for name, p in inside.named_parameters()}
    {'coordinates': (5,)}

    Source: Li et al. (2018), equation 2.
    """

    def __init__(self, model: nn.Module, dimension: int, kind: Kind = "fastfood", seed: int = 0) -> None:
        super().__init__()
        for name, part in model.named_modules():
            if isinstance(getattr(part, "running_mean", None), Tensor):
                raise ValueError(
                    f"{name or 'the model'} keeps running statistics, which training changes outside the subspace: "
                    "use track_running_stats=False, or another normalization"
                )
        trainable = [n for n, p in model.named_parameters() if p.requires_grad]
        if not trainable:
            raise ValueError("the model has no trainable parameter")
        kinds = {p.dtype for p in model.parameters() if p.requires_grad}
        if len(kinds) > 1:
            raise ValueError(
                f"the trainable parameters have several dtypes, {sorted(map(str, kinds))}; cast them to one"
            )
        self._model = [model]  # in a list: its parameters are not this module's
        self.layout = Layout(model, "|".join(f"{_literal(n)}$" for n in trainable))
        start = self.layout.read(model)
        self.register_buffer("start", start, persistent=False)
        self.projection = Projection(self.layout.size, dimension, kind, seed, start.dtype, start.device)
        self.coordinates = nn.Parameter(start.new_zeros(dimension))

    @property
    def model(self) -> nn.Module:
        """The network, at θ₀ until `write`."""
        return self._model[0]

    def parameters_now(self) -> Float[Tensor, " size"]:
        """θ, flat; differentiable in the coordinates."""
        return self.start + self.projection.apply(self.coordinates)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The network at θ."""
        return functional_call(self.model, self.layout.unflatten(self.parameters_now()), inputs, named)

    def train(self, mode: bool = True) -> SubspaceParametrization:
        """Set the mode of the network, too."""
        super().train(mode)
        if hasattr(self, "_model"):
            self.model.train(mode)
        return self

    def write(self) -> nn.Module:
        """Copy θ into the network and return it."""
        with torch.no_grad():
            self.layout.write(self.model, self.parameters_now())
        return self.model


def _literal(name: str) -> str:
    return name.replace(".", r"\.")


@dataclass
class IntrinsicDimension:
    """What a search over subspaces found.

    Attributes:
        dimension: the smallest that reached the threshold; None where none did.
        threshold: what had to be reached.
        curve: the metric at each dimension tried.
    """

    dimension: int | None
    threshold: float
    curve: dict[int, float]


def intrinsic_dimension(
    train: Callable[[int | None], float],
    grid: Iterable[int],
    target: float = 0.9,
    baseline: float | None = None,
    *,
    stop: bool = False,
) -> IntrinsicDimension:
    """The smallest dimension of `grid` whose metric is at least `target` times the full space's.

    Args:
        train: dimension → a metric that is higher the better; None stands for the full space.
        target: share of the baseline, in (0, 1].
        baseline: the full space's metric; without it, ``train(None)``.
        stop: whether to leave out the dimensions above the first that reaches it.

    Raises:
        ValueError: an empty grid, a dimension below 1, or a target outside (0, 1].

    Warns:
        NotReached: no dimension of the grid reached it.

    >>> intrinsic_dimension(lambda d: 1.0 if d is None or d >= 10 else 0.0, range(5, 15)).dimension
    10

    Source: Li et al. (2018), section 2.1 (d_int90).
    """
    dimensions = sorted(set(grid))
    if not dimensions or dimensions[0] < 1:
        raise ValueError(f"grid={dimensions} needs dimensions of at least 1")
    if not 0 < target <= 1:
        raise ValueError(f"target={target} is a share of the baseline, in (0, 1]")
    threshold = target * (train(None) if baseline is None else baseline)
    curve: dict[int, float] = {}
    found = None
    for d in dimensions:
        curve[d] = train(d)
        if found is None and curve[d] >= threshold:
            found = d
            if stop:
                break
    if found is None:
        warnings.warn(
            f"no dimension up to {dimensions[-1]} reached {threshold:.4g}; the best was {max(curve.values()):.4g}",
            NotReached, stacklevel=2,
        )  # fmt: skip
    return IntrinsicDimension(found, threshold, curve)
