r"""A linear layer whose weight is packed NormalFloat blocks plus, if asked for, two trainable factors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.factor.quant import normal_float
from gramian.linalg.factor.quant.normal_float import BlockFormat, PackedBlocks
from gramian.nn.low_rank import dense

__all__ = ["QuantizedLinear"]


class QuantizedLinear(nn.Module):
    r"""\(y = (Q + U D)\, x + b\), Q kept as packed codes and scales (frozen), U and D trainable.

    The state dict holds the bytes, so that a file is as small as the layer.

    Args:
        in_features, out_features: as of `torch.nn.Linear`.
        fmt: how Q is stored; its blocks run along the rows, one after the other.
        rank: of U D; 0 leaves them out.
        bias: whether there is one.

    Raises:
        ValueError: blocks that do not divide the weight, or a rank outside [0, min(in_features, out_features)].
    """

    codes: Tensor
    scales: Tensor
    second: Tensor
    offset: Tensor

    def __init__(self, in_features: int, out_features: int, fmt: BlockFormat, rank: int = 0, bias: bool = True) -> None:
        super().__init__()
        if not 0 <= rank <= min(in_features, out_features):
            raise ValueError(f"rank={rank} is not between 0 and {min(in_features, out_features)}")
        self.in_features, self.out_features, self.rank, self.fmt = in_features, out_features, rank, fmt
        empty = normal_float.quantize_blocks(torch.zeros(out_features, in_features), fmt)
        for name, value in empty._asdict().items():
            self.register_buffer(name, value)
        self.up = nn.Parameter(torch.zeros(out_features, rank)) if rank else None
        self.down = nn.Parameter(torch.zeros(rank, in_features)) if rank else None
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def from_float(
        cls,
        weight: Float[Tensor, "outputs inputs"],
        fmt: BlockFormat,
        bias: Float[Tensor, " outputs"] | None = None,
        up: Float[Tensor, "outputs rank"] | None = None,
        down: Float[Tensor, "rank inputs"] | None = None,
    ) -> QuantizedLinear:
        """The layer whose Q is `weight` quantized, beside the factors `up` and `down`.

        Raises:
            ValueError: one factor without the other, blocks that do not divide the weight, NaN or infinity.
        """
        if (up is None) != (down is None):
            raise ValueError("give both factors, up and down, or none")
        rank = 0 if up is None else up.shape[1]
        layer = cls(weight.shape[1], weight.shape[0], fmt, rank, bias is not None).to(weight.device)
        for name, value in normal_float.quantize_blocks(weight.detach(), fmt)._asdict().items():
            setattr(layer, name, value)
        with torch.no_grad():
            for parameter, value in ((layer.up, up), (layer.down, down), (layer.bias, bias)):
                if parameter is not None and value is not None:
                    parameter.copy_(value)
        return layer

    @property
    def quantized(self) -> Float[Tensor, "outputs inputs"]:
        """Q, in float32."""
        packed = PackedBlocks(self.codes, self.scales, self.second, self.offset)
        return normal_float.dequantize_blocks(packed, (self.out_features, self.in_features), self.fmt)

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """Q + U D."""
        quantized = self.quantized
        return quantized if self.up is None else quantized + self.up @ self.down

    @property
    def nbytes(self) -> int:
        """What Q takes in memory and in a file."""
        return sum(t.nbytes for t in (self.codes, self.scales, self.second, self.offset))

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        y = nn.functional.linear(x, self.quantized.to(x.dtype), self.bias)
        if self.up is None or self.down is None:
            return y
        return y + nn.functional.linear(nn.functional.linear(x, self.down), self.up)

    def merged(self) -> nn.Linear:
        """One dense layer of the same function, in float32."""
        with torch.no_grad():
            return dense(self.weight, self.bias)

    def extra_repr(self) -> str:
        shape = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{shape}, bits={self.fmt.bits_per_number:.3f}, rank={self.rank}"
