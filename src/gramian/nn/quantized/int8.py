"""A linear layer in int8, with the outlier features of its input multiplied as floats (LLM.int8())."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.factor.quant import absmax
from gramian.nn.low_rank import dense

__all__ = ["Int8Linear"]


class Int8Linear(nn.Module):
    r"""\(y = x W^T + b\) by `gramian.linalg.factor.quant.absmax.mixed_matmul`: W in int8, one scale a row.

    The weight is frozen: it is a buffer. Gradients pass to the input as through the dequantized weight.

    Args:
        in_features, out_features: as of `torch.nn.Linear`.
        bias: whether there is one.
        threshold: input features that somewhere in the batch reach this magnitude are multiplied as floats;
            infinity separates none, 0 all.
        keep_float: whether to keep the float weight for them too (twice to four times the memory); without, their
            weights are dequantized.

    Raises:
        ValueError: a threshold below 0 or NaN.
    """

    codes: Tensor
    scales: Tensor
    weight_float: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        threshold: float | int = 6.0,
        keep_float: bool = False,
    ) -> None:
        super().__init__()
        if not threshold >= 0:
            raise ValueError(f"threshold={threshold}: a magnitude is at least 0 (infinity separates nothing)")
        self.in_features, self.out_features, self.threshold = in_features, out_features, float(threshold)
        self.register_buffer("codes", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scales", torch.zeros(out_features))
        self.register_buffer("weight_float", torch.zeros(out_features, in_features) if keep_float else None)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def from_float(cls, layer: nn.Linear, threshold: float | int = 6.0, keep_float: bool = False) -> Int8Linear:
        """A layer's weight in int8.

        Raises:
            TypeError: something else than a linear layer.
            ValueError: a weight that is not a matrix or holds NaN or infinity, or a threshold below 0.
        """
        weight = getattr(layer, "weight", None)
        if not isinstance(layer, nn.Linear) or weight is None:
            raise TypeError(f"a {type(layer).__name__} is not a linear layer")
        if weight.ndim != 2:
            raise ValueError(f"the weight has shape {tuple(weight.shape)}, a matrix is needed")
        new = cls(layer.in_features, layer.out_features, layer.bias is not None, threshold, keep_float)
        new.to(weight.device)
        new.codes, new.scales = absmax.quantize_rows(weight.detach())
        if keep_float:
            new.weight_float = weight.detach().clone()
        if layer.bias is not None:
            new.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
        return new

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The weight that the codes stand for."""
        return absmax.dequantize_rows(self.codes, self.scales)

    @property
    def nbytes(self) -> int:
        """What the weight takes: codes, scales, and floats if kept."""
        kept = 0 if self.weight_float is None else self.weight_float.nbytes
        return self.codes.nbytes + self.scales.nbytes + kept

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"the input has {x.shape[-1]} features, the layer takes {self.in_features}")
        y = _Mixed.apply(x.reshape(-1, x.shape[-1]), self.codes, self.scales, self.threshold, self.weight_float)
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def merged(self) -> nn.Linear:
        """A plain layer with the dequantized weight."""
        weight = self.weight if self.weight_float is None else self.weight_float
        with torch.no_grad():
            return dense(weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, threshold={self.threshold:g}"


class _Mixed(torch.autograd.Function):
    """The mixed product; backward as if the weight were the dequantized one and nothing else were rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, threshold: float, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return absmax.mixed_matmul(x, codes, scales, threshold, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        codes, scales = ctx.saved_tensors
        weight = absmax.dequantize_rows(codes, scales).to(gradients[0].dtype)
        return gradients[0] @ weight, None, None, None, None
