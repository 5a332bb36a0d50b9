"""FLoRA: adapt a weight of any number of axes by a small core and one matrix an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.factor import tensor as tensors
from gramian.surgery.adapters.apply import Attached, attach
from gramian.surgery.adapters.base import Adapter, fresh_generator

__all__ = ["KINDS", "MatricizedConv", "TuckerAdapter", "attach_tucker"]

KINDS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
"""The layers that `TuckerAdapter` stands beside."""

_FORWARDS = {kind.forward for kind in KINDS}
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class TuckerAdapter(Adapter):
    r"""\(\Delta W = s \cdot G \times_1 A_1 \times_2 A_2 \cdots \times_N A_N\) beside a linear layer or a convolution.

    The core G (r₁, …, r_N) starts at zero, so that the layer starts as the base, bit for bit; the factors
    \(A_n\) (d_n, r_n) start uniform in ±1/√r_n. The axes are those of the weight: (out, in) of a linear layer,
    (out, in / groups, kernel …) of a convolution, (in, out / groups, kernel …) of a transposed one.

    ΔW is not formed in running, except beside a subclass with a forward pass of its own: a convolution goes into r_in
    channels by a product at each point, through a small kernel of r_out × r_in channels, and out by another product.

    Args:
        base: the layer; it is kept as it is.
        ranks: one an axis of the weight.
        scale: s.
        dropout: on the branch's input, in training.
        generator: what the factors are drawn from.
        dtype: of core and factors; by default the base's, but at least float32.

    Raises:
        ValueError: another number of ranks than the weight has axes, a rank below 1 or above its axis (a depthwise
            convolution has one input channel a group), dropout outside [0, 1), a scale that is zero or not finite.
        TypeError: a layer that is none of `KINDS`.

    Source: Si et al., "FLoRA: Low-Rank Core Space for N-dimension" (2024).

    >>> layer = TuckerAdapter(nn.Conv2d(16, 32, 3), ranks=(8, 4, 3, 3))
    >>> sum(p.numel() for p in layer.trained().values())
    626
    """

    def __init__(
        self,
        base: nn.Module,
        ranks: Sequence[int],
        *,
        scale: float | int = 1.0,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(base, KINDS):
            raise TypeError(f"TuckerAdapter adapts linear layers and convolutions, not a {type(base).__name__}")
        super().__init__(base)
        shape = tuple(base.weight.shape)
        if len(ranks) != len(shape):
            raise ValueError(f"ranks={tuple(ranks)}: the weight has {len(shape)} axes {shape}, give one rank for each")
        for axis, (rank, side) in enumerate(zip(ranks, shape, strict=True)):
            if not 1 <= rank <= side:
                hint = " (a depthwise convolution has one channel a group)" if side == 1 else ""
                raise ValueError(f"rank {rank} of axis {axis} must be between 1 and {side}{hint}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
        if not (scale and math.isfinite(scale)):
            raise ValueError(f"scale={scale} must be finite and not zero: with zero nothing is trained")
        self.ranks, self.scale, self.dropout = tuple(ranks), float(scale), float(dropout)
        dtype = torch.promote_types(base.weight.dtype, torch.float32) if dtype is None else dtype
        source = fresh_generator(generator)
        place = {"device": base.weight.device, "dtype": dtype}
        self.core = nn.Parameter(torch.zeros(self.ranks, **place))
        self.factors = nn.ParameterList(
            nn.Parameter(((2 * torch.rand(side, rank, generator=source) - 1) * rank**-0.5).to(**place))
            for side, rank in zip(shape, self.ranks, strict=True)
        )

    def delta(self) -> Float[Tensor, "..."]:
        return self.scale * tensors.tucker_to_tensor(self.core, tuple(self.factors))

    def branch(self, x: Tensor) -> Tensor:
        x = F.dropout(x.to(self.core.dtype), self.dropout, self.training)
        if type(self.base).forward not in _FORWARDS:
            return self.dense(x)
        if isinstance(self.base, nn.Linear):
            return self.scale * F.linear(F.linear(F.linear(x, self.factors[1].mT), self.core), self.factors[0])
        return self.scale * self._convolve(x)

    def dense(self, x: Tensor) -> Tensor:
        """The branch with ΔW formed: slower, and right for a layer of any kind, such as one that pads its own way."""
        return _without_bias(self.base, self.delta(), x)

    def _convolve(self, x: Tensor) -> Tensor:
        """Into few channels, a convolution with the core's kernel, and out: the groups share it as a batch would."""
        base, spatial = self.base, self.core.ndim - 2
        whole = x.ndim == spatial + 2
        x = x if whole else x[None]
        kernel = self.core
        for axis in range(2, self.core.ndim):
            kernel = tensors.mode_product(kernel, self.factors[axis], axis)
        transposed = isinstance(base, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
        enter, leave = (self.factors[0], self.factors[1]) if transposed else (self.factors[1], self.factors[0])
        groups = base.groups
        x = x.unflatten(1, (groups, -1))
        if transposed:  # the factor of the inputs holds a part for every group, that of the outputs is shared
            x = torch.einsum("ngc...,gcr->ngr...", x, enter.unflatten(0, (groups, -1)))
        else:
            x = torch.einsum("ngc...,cr->ngr...", x, enter)
        batch = x.shape[0]
        x = x.flatten(0, 1)
        if transposed:
            y = _TRANSPOSE[spatial](x, kernel, None, base.stride, base.padding, base.output_padding, 1, base.dilation)
        elif base.padding_mode != "zeros":
            x = F.pad(x, base._reversed_padding_repeated_twice, mode=base.padding_mode)
            y = _CONVOLVE[spatial](x, kernel, None, base.stride, 0, base.dilation)
        else:
            y = _CONVOLVE[spatial](x, kernel, None, base.stride, base.padding, base.dilation)
        y = y.unflatten(0, (batch, groups))
        if transposed:
            y = torch.einsum("ngr...,cr->ngc...", y, leave)
        else:
            y = torch.einsum("ngr...,gcr->ngc...", y, leave.unflatten(0, (groups, -1)))
        y = y.flatten(1, 2)
        return y if whole else y[0]

    @torch.no_grad()
    def set_delta(self, delta: Float[Tensor, "..."]) -> None:
        """Start from a known change of the weight: the Tucker form of its truncated HOSVD, exact at full ranks.

        Raises:
            ValueError: another shape than the weight's, or a rank above what the unfolding of ΔW can have.
        """
        if delta.shape != self.base.weight.shape:
            raise ValueError(f"a change of shape {tuple(delta.shape)} for a weight of {tuple(self.base.weight.shape)}")
        found = tensors.hosvd(delta.to(self.core) / self.scale, self.ranks)
        self.core.copy_(found.core)
        for mine, factor in zip(self.factors, found.factors, strict=True):
            mine.copy_(factor)

    def own(self) -> dict[str, nn.Parameter]:
        return {"core": self.core, **{f"factors.{i}": f for i, f in enumerate(self.factors)}}

    def extra_repr(self) -> str:
        return f"ranks={self.ranks}, scale={self.scale:g}"


class MatricizedConv(Adapter):
    r"""LoRA of a convolution read as a matrix (out, in · kernel): ΔW = B A, the form that FLoRA is measured against.

    Args:
        base: a convolution, not a transposed one.
        rank: between 1 and the least side of that matrix.
        generator: what A is drawn from; B starts at zero.

    Raises:
        ValueError: a rank out of range.
        TypeError: a layer that is no convolution.
    """

    def __init__(self, base: nn.Module, rank: int, *, generator: torch.Generator | None = None) -> None:
        if not isinstance(base, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            raise TypeError(f"MatricizedConv adapts a convolution, not a {type(base).__name__}")
        super().__init__(base)
        rows, columns = base.weight.shape[0], base.weight[0].numel()
        if not 1 <= rank <= min(rows, columns):
            raise ValueError(f"rank={rank} must be between 1 and {min(rows, columns)}, the least side of W as a matrix")
        start = (2 * torch.rand(rank, columns, generator=fresh_generator(generator)) - 1) * columns**-0.5
        self.A = nn.Parameter(start.to(base.weight))
        self.B = nn.Parameter(torch.zeros(rows, rank).to(base.weight))

    def delta(self) -> Float[Tensor, "..."]:
        return (self.B @ self.A).view(self.base.weight.shape)

    def branch(self, x: Tensor) -> Tensor:
        return _without_bias(self.base, self.delta(), x.to(self.A.dtype))

    def own(self) -> dict[str, nn.Parameter]:
        return {"A": self.A, "B": self.B}


def _without_bias(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """What the layer would give with another weight and no bias."""
    changed: dict[str, Tensor] = {"weight": weight}
    if layer.bias is not None:
        changed["bias"] = torch.zeros_like(layer.bias, dtype=weight.dtype)
    return torch.func.functional_call(layer, changed, (x,))


def attach_tucker(
    model: nn.Module,
    pattern: str | Iterable[str],
    ranks: Callable[[str, tuple[int, ...]], Sequence[int] | None],
    *,
    scale: float | int = 1.0,
    dropout: float = 0.0,
    keep: str | Iterable[str] = (),
    generator: torch.Generator | None = None,
) -> Attached:
    """`TuckerAdapter` on every linear layer and convolution that matches.

    Args:
        ranks: (name, shape of the weight) → the ranks, or None to leave the layer.
        scale, dropout, generator: as in `TuckerAdapter`.
        keep: names of modules whose parameters stay trainable.

    Raises:
        ValueError: nothing matches, or as `TuckerAdapter`.

    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8, 4))
    >>> attach_tucker(net, "*", lambda name, shape: [min(2, side) for side in shape]).num_trained
    65
    """
    source = fresh_generator(generator)

    def make(name: str, layer: nn.Module) -> Adapter | None:
        chosen = ranks(name, tuple(layer.weight.shape))
        if chosen is None:
            return None
        return TuckerAdapter(layer, chosen, scale=scale, dropout=dropout, generator=source)

    return attach(model, pattern, make, KINDS, keep)
