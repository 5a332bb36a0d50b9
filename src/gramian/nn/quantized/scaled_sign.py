r"""A linear layer whose weight is a sign, and a scale and a shift for each input: trained as such, then packed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.factor.quant.binary import pack_signs, unpack_signs
from gramian.linalg.factor.quant.bit_products import float_sign_matmul
from gramian.nn.low_rank import dense

__all__ = ["PackedSignLinear", "SignLinear", "straight_sign"]


class _StraightSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        return torch.where(w >= 0, 1.0, -1.0).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def straight_sign(w: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The sign, +1 at zero; gradients pass as if it were the identity (the straight-through estimator)."""
    return _StraightSign.apply(w)


class SignLinear(nn.Module):
    r"""\(y = \tilde W x + b\), \(\tilde W_{oi} = \alpha_i\, \mathrm{sign}(W_{oi}) + \beta_i\), all three trained.

    Args:
        weight: W at first; \(\beta_i\) starts as the mean of its column, \(\alpha_i\) as the mean of
            \(|W_{oi} - \beta_i|\).
        bias: b, kept as it is.

    Raises:
        ValueError: NaN or infinity, or a column whose entries are all the same: its scale would be zero for ever.

    Source: Tang et al., "Bi-Mamba: Towards Accurate 1-Bit State Space Models", 2024, section 3.2.
    """

    def __init__(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None = None) -> None:
        super().__init__()
        weight = weight.detach().clone()
        if not bool(weight.isfinite().all()):
            raise ValueError("a weight with NaN or infinity has no sign to keep")
        self.weight = nn.Parameter(weight)
        beta = weight.mean(0)
        alpha = (weight - beta).abs().mean(0)
        if not bool((alpha > 0).all()):
            raise ValueError(f"column {int((alpha <= 0).nonzero()[0])} of the weight does not vary: its scale is zero")
        self.alpha, self.beta = nn.Parameter(alpha), nn.Parameter(beta)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.out_features, self.in_features = weight.shape

    @property
    def effective_weight(self) -> Float[Tensor, "outputs inputs"]:
        """The weight that multiplies."""
        return self.alpha * straight_sign(self.weight) + self.beta

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return F.linear(x, self.effective_weight, self.bias)

    def merged(self) -> nn.Linear:
        """A plain layer of the same function."""
        with torch.no_grad():
            return dense(self.effective_weight, self.bias)

    def to_packed(self) -> PackedSignLinear:
        """The layer in one bit a weight, for inference."""
        return PackedSignLinear(self)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class PackedSignLinear(nn.Module):
    r"""\(y = S (\alpha \odot x) + \beta \cdot x + b\) with the signs S packed; no gradients."""

    signs: Tensor
    alpha: Tensor
    beta: Tensor
    bias: Tensor | None

    def __init__(self, layer: SignLinear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("signs", pack_signs(layer.weight.detach()))
        self.register_buffer("alpha", layer.alpha.detach().clone())
        self.register_buffer("beta", layer.beta.detach().clone())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        rows = x.reshape(-1, self.in_features)
        y = float_sign_matmul(rows * self.alpha, self.signs) + (rows @ self.beta)[:, None]
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], self.out_features)

    @property
    def nbytes(self) -> int:
        """What the layer takes."""
        return sum(t.nbytes for t in (self.signs, self.alpha, self.beta, self.bias) if t is not None)

    def merged(self) -> nn.Linear:
        """A plain layer of the same function."""
        return dense(self.alpha * unpack_signs(self.signs, self.in_features).to(self.alpha) + self.beta, self.bias)
