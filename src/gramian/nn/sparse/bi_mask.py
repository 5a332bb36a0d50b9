r"""Linear layers and convolutions that train under N:M masks, with one mask forward and another one backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.factor import sparse_nm

__all__ = ["METHODS", "BiMaskConv2d", "BiMaskLinear"]

METHODS = ("bi-mask", "uni-directional", "transposable")


class _MaskedLinear(torch.autograd.Function):
    """x (w b)ᵀ; the input's gradient through w b b′, the weight's dense, plus decay (1 − b) w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, forward: Tensor, backward: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(x, w, forward, backward)
        ctx.decay = decay
        return F.linear(x, w * forward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (g,), (x, w, forward, backward) = gradients, ctx.saved_tensors
        of_input = g @ (w * backward) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = g.flatten(0, -2).T @ x.flatten(0, -2) + ctx.decay * (~forward) * w
        return of_input, of_weight, None, None, None


class _MaskedConv2d(torch.autograd.Function):
    """The same for a convolution, by torch's own kernels for its two gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, forward: Tensor, backward: Tensor, decay: float, where: tuple[Any, Any, Any]
    ) -> Tensor:
        ctx.save_for_backward(x, w, forward, backward)
        ctx.decay, ctx.where = decay, where
        return F.conv2d(x, w * forward, None, *where)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        (g,), (x, w, forward, backward) = gradients, ctx.saved_tensors
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            of_input = torch.nn.grad.conv2d_input(x.shape, w * backward, g, *ctx.where)
        if ctx.needs_input_grad[1]:
            of_weight = torch.nn.grad.conv2d_weight(x, w.shape, g, *ctx.where) + ctx.decay * (~forward) * w
        return of_input, of_weight, None, None, None, None


class _BiMask(nn.Module):
    """What the linear layer and the convolution share: the masks and when they are made."""

    weight: nn.Parameter
    permutation: Tensor

    def _prepare(
        self, kept: int, group: int, method: str, decay: float | int, interval: int, candidates: int, seed: int
    ) -> None:
        rows, columns = self.weight.flatten(1).shape
        sparse_nm.check_pattern(kept, group, columns, "axis of inputs")
        if method != "uni-directional":
            sparse_nm.check_pattern(kept, group, rows, "axis of outputs")
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
        if interval < 1 or candidates < 1:
            raise ValueError(f"interval={interval}, candidates={candidates}: both are at least 1")
        if not decay >= 0:
            raise ValueError(f"decay={decay} must not be negative")
        self.kept, self.group, self.method, self.decay = kept, group, method, float(decay)
        self.interval, self.candidates = interval, candidates
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0
        self.retained = 1.0
        self.register_buffer("permutation", torch.arange(rows))

    def masks(self) -> tuple[Tensor, Tensor]:
        """B and b b′ for the present weight, in its shape."""
        w = self.weight.detach().flatten(1)
        if self.method == "transposable":
            forward = backward = sparse_nm.transposable_mask(w, self.kept, self.group)
        else:
            forward = backward = sparse_nm.nm_mask(w, self.kept, self.group)
        if self.method == "bi-mask":
            backward = forward & sparse_nm.backward_mask(w * forward, self.kept, self.group, self.permutation)
        return forward.view(self.weight.shape), backward.view(self.weight.shape)

    def _masks_of_a_step(self) -> tuple[Tensor, Tensor]:
        if self.training and torch.is_grad_enabled():
            if self.method == "bi-mask" and self.steps % self.interval == 0:
                w = self.weight.detach().flatten(1)
                order, self.retained = sparse_nm.best_permutation(
                    w, self.kept, self.group, self.candidates, self.generator
                )
                self.permutation.copy_(order)
            self.steps += 1
        return self.masks()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.kept}:{self.group}, {self.method}"


class BiMaskLinear(_BiMask, nn.Linear):
    r"""\(y = x (W \odot b)^T + c\); the input's gradient is \(g\,(W \odot b \odot b')\).

    b keeps N of every M weights along the inputs, b′ of what is left N of every M along the outputs, in an order of
    the outputs that is drawn anew every `interval` training steps. The weight's gradient is dense (straight
    through) and has decay · (1 − b) ⊙ W added, which wears down what is masked.

    Args:
        in_features, out_features, bias: as of `torch.nn.Linear`.
        kept, group: N and M.
        method: "bi-mask"; "uni-directional" has no b′ (SR-STE: a dense backward); "transposable" takes one mask that
            serves both directions.
        decay: of the masked weights.
        interval, candidates: every how many steps an order is chosen, out of how many.
        seed: of the orders.

    Raises:
        ValueError: a pattern that is none or does not divide an axis, an unknown method, interval or candidates
            below 1, a negative decay.

    Source: Zhang et al., Bi-directional Masks for Efficient N:M Sparse Training (2023).
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, kept: int = 2, group: int = 4,
        method: str = "bi-mask", decay: float | int = 2e-4, interval: int = 100, candidates: int = 10, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, bias)
        self._prepare(kept, group, method, decay, interval, candidates, seed)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        forward, backward = self._masks_of_a_step()
        y = _MaskedLinear.apply(x.reshape(-1, x.shape[-1]), self.weight, forward, backward, self.decay)
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    def merged(self) -> nn.Linear:
        """A plain layer with the masked weight."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        return _filled(layer, self)


class BiMaskConv2d(_BiMask, nn.Conv2d):
    """The same for images: groups lie along (channel, row, column) of each output's kernel.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, bias: as of `torch.nn.Conv2d`.
        kept, group, method, decay, interval, candidates, seed: as `BiMaskLinear`, which also says what it raises.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
        bias: bool = True, *, kept: int = 2, group: int = 4, method: str = "bi-mask", decay: float | int = 2e-4,
        interval: int = 100, candidates: int = 10, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self._prepare(kept, group, method, decay, interval, candidates, seed)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch outputs new_height new_width"]:
        where = (self.stride, self.padding, self.dilation)
        y = _MaskedConv2d.apply(x, self.weight, *self._masks_of_a_step(), self.decay, where)
        return y if self.bias is None else y + self.bias[:, None, None]

    def merged(self) -> nn.Conv2d:
        """A plain layer with the masked weight."""
        layer = nn.Conv2d(
            self.in_channels, self.out_channels, self.kernel_size[0], self.stride[0], int(self.padding[0]),
            bias=self.bias is not None,
        )  # fmt: skip
        return _filled(layer, self)


def _filled(layer: Any, source: Any) -> Any:
    layer.to(source.weight.device, source.weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(source.weight * source.masks()[0])
        if layer.bias is not None:
            layer.bias.copy_(source.bias)
    return layer
