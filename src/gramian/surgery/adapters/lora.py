"""LoRA: a frozen linear layer plus a trainable product of two thin matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.surgery.adapters.base import Adapter, fresh_generator

__all__ = ["INITS", "TRAINS", "LoRALinear", "draw"]

INITS = ("kaiming", "orthonormal", "gaussian", "rademacher", "svd")
TRAINS = ("AB", "B", "A")


class LoRALinear(Adapter):
    r"""\(y = W x + b + \frac{\alpha}{r} B A\, x\), with \(A\) (rank, in) and \(B\) (out, rank).

    One of the two starts at zero, so that the layer starts as the base, bit for bit: B, or A where only A is
    trained. ``init="svd"`` (PiSSA) starts both at the r leading singular triplets of W instead and subtracts
    that start, \(B A - B_0 A_0\): at the start the sum is zero, and what is trained is the principal part.

    Args:
        base: the linear layer; it is kept as it is.
        rank: r, at most the layer's least side.
        alpha: the numerator of the scaling; by default the rank, so that the scaling is 1.
        train: ``"AB"``, or one factor alone: the other stays at its random start.
        init: how the factor that is not zero starts: ``"kaiming"`` (uniform, ±1/√in for A), ``"orthonormal"``
            (rows of A, or columns of B), ``"gaussian"`` and ``"rademacher"`` (of variance 1/rank), or ``"svd"``.
        dropout: on the branch's input, in training.
        generator: what the start is drawn from.
        dtype: of A and B; by default the base's, but at least float32.

    Raises:
        ValueError: a rank below 1 or above the layer's least side, an unknown `train` or `init`, dropout
            outside [0, 1), alpha that is not positive; ``"svd"`` of a half-precision weight.
        TypeError: a base that is not a linear layer.

    Source: Hu et al., "LoRA" (2021); ``"svd"``: Meng et al., "PiSSA" (2024); one factor alone: Zhu et al.,
    "Asymmetry in Low-Rank Adapters" (2024).

    >>> layer = LoRALinear(nn.Linear(6, 4), rank=2, train="B", init="orthonormal")
    >>> sum(p.numel() for p in layer.trained().values())
    8
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int = 8,
        *,
        alpha: float | int | None = None,
        train: str = "AB",
        init: str = "kaiming",
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"LoRALinear adapts an nn.Linear, not a {type(base).__name__}")
        super().__init__(base)
        out_features, in_features = base.weight.shape
        if not 1 <= rank <= min(out_features, in_features):
            raise ValueError(f"rank={rank} must be between 1 and {min(out_features, in_features)}, the least side of W")
        for name, value, allowed in (("train", train, TRAINS), ("init", init, INITS)):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
        if alpha is not None and not alpha > 0:
            raise ValueError(f"alpha={alpha} must be positive")
        self.rank, self.alpha, self.train_factors, self.init = (
            rank,
            float(rank if alpha is None else alpha),
            train,
            init,
        )
        self.dropout = float(dropout)
        dtype = torch.promote_types(base.weight.dtype, torch.float32) if dtype is None else dtype
        A, B = self._start(fresh_generator(generator))
        self.A = nn.Parameter(A.to(base.weight.device, dtype), requires_grad="A" in train)
        self.B = nn.Parameter(B.to(base.weight.device, dtype), requires_grad="B" in train)
        # the start that an svd subtracts
        self.register_buffer("A0", self.A.detach().clone() if init == "svd" else None)
        self.register_buffer("B0", self.B.detach().clone() if init == "svd" else None)

    def _start(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        out_features, in_features = self.base.weight.shape
        if self.init == "svd":
            weight = self.base.weight.detach()
            if weight.dtype.itemsize < 4:
                raise ValueError(
                    f"init='svd' needs at least float32, the weight is {weight.dtype}: call .float() first"
                )
            u, s, vh = torch.linalg.svd(weight, full_matrices=False)
            root = (s[: self.rank] / self.scaling).sqrt()
            return root[:, None] * vh[: self.rank], u[:, : self.rank] * root
        if self.train_factors == "A":
            return torch.zeros(self.rank, in_features), draw(self.init, self.rank, out_features, generator).T
        return draw(self.init, self.rank, in_features, generator), torch.zeros(out_features, self.rank)

    @property
    def scaling(self) -> float:
        """α / r."""
        return self.alpha / self.rank

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    def delta(self) -> Float[Tensor, "out in"]:
        delta = self.B @ self.A
        return self.scaling * (delta if self.A0 is None else delta - self.B0 @ self.A0)

    def branch(self, x: Tensor) -> Tensor:
        x = F.dropout(x.to(self.A.dtype), self.dropout, self.training)
        y = F.linear(F.linear(x, self.A), self.B)
        if self.A0 is not None:
            y = y - F.linear(F.linear(x, self.A0), self.B0)
        return self.scaling * y

    def factors(self) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
        """A and B with ΔW = scaling · B A, of twice the rank where the start is subtracted."""
        if self.A0 is None:
            return self.A.detach(), self.B.detach()
        return torch.cat((self.A.detach(), self.A0)), torch.cat((self.B.detach(), -self.B0), dim=1)

    def own(self) -> dict[str, nn.Parameter]:
        return {"A": self.A, "B": self.B}

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: self.own()[name] for name in self.train_factors}

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha:g}, train={self.train_factors!r}, init={self.init!r}"


def draw(init: str, rank: int, width: int, generator: torch.Generator) -> Float[Tensor, "rank width"]:
    """A random (rank, width) start: ``kaiming``, ``orthonormal`` (rows), ``gaussian`` or ``rademacher``.

    Raises:
        ValueError: an unknown name, or more orthonormal rows than the width.
    """
    if init == "kaiming":  # uniform with a = √5, as nn.Linear starts
        return (2 * torch.rand(rank, width, generator=generator) - 1) * width**-0.5
    if init == "gaussian":
        return torch.randn(rank, width, generator=generator) * rank**-0.5
    if init == "rademacher":
        signs = torch.randint(0, 2, (rank, width), generator=generator)
        return (2.0 * signs - 1) * rank**-0.5
    if init == "orthonormal":
        if rank > width:
            raise ValueError(f"no {rank} orthonormal rows of width {width}")
        q, r = torch.linalg.qr(torch.randn(width, rank, generator=generator))
        return (q * r.diagonal().sign()).T.contiguous()  # the signs make the law uniform
    raise ValueError(f"init={init!r} is not one of {', '.join(INITS[:-1])}")
