"""SVFit: train nothing of a weight but its leading singular values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.optim.checkpoint import load_checkpoint, save_checkpoint
from gramian.surgery.adapters.apply import Attached, adapters, attach
from gramian.surgery.adapters.base import Adapter, check_base

__all__ = ["SVFitLinear", "attach_svfit", "fingerprint", "leading_rank", "load_svfit", "save_svfit"]

_FORMAT = "gramian-svfit-1"


class SVFitLinear(Adapter):
    r"""\(y = W x + b + U_r\,\mathrm{diag}(s - s_0)\,V_r^\top x\), where \(W = U\,\mathrm{diag}(s_0)\,V^\top\).

    This is \((W - W_r)\,x + U_r\,\mathrm{diag}(s)\,V_r^\top x + b\) with the residual \(W - W_r\) and the leading
    singular vectors frozen: only the r numbers s are trained, from the singular values on. Written as a change
    of W, it starts as the base bit for bit.

    Args:
        base: the linear layer.
        rank: r; by default all.
        energy: instead, the least r whose singular values hold this share of the whole; see `leading_rank`.
        measure: of what: ``"squares"`` of the singular values, or their ``"sum"``.

    Raises:
        ValueError: a rank outside 1 … the least side, energy outside (0, 1], both given, an unknown measure,
            a half-precision weight.
        TypeError: a base that is not a linear layer, or is quantized.

    Source: Sun et al., "SVFit" (2024).

    >>> layer = SVFitLinear(nn.Linear(6, 4), rank=3)
    >>> layer.s.shape
    torch.Size([3])
    """

    def __init__(
        self, base: nn.Module, rank: int | None = None, *, energy: float | None = None, measure: str = "squares"
    ) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"SVFitLinear adapts an nn.Linear, not a {type(base).__name__}; dequantize a quantized one")
        super().__init__(base)
        weight = base.weight.detach()
        if rank is not None and energy is not None:
            raise ValueError("give rank= or energy=, not both")
        if rank is not None and not 1 <= rank <= min(weight.shape):
            raise ValueError(f"rank={rank} must be between 1 and {min(weight.shape)}, the least side of W")
        if weight.dtype.itemsize < 4:
            raise ValueError(f"an SVD needs at least float32, the weight is {weight.dtype}: call .float() first")
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        if energy is not None:
            rank = leading_rank(s, energy, measure)
        self.rank = len(s) if rank is None else rank
        # one sign each, so that the vectors are the same wherever they are computed
        sign = torch.gather(u, 0, u.abs().argmax(0, keepdim=True)).sign()
        self.register_buffer("U", (u * sign)[:, : self.rank].contiguous(), persistent=False)
        self.register_buffer("Vh", (vh * sign.T)[: self.rank].contiguous(), persistent=False)
        self.register_buffer("s0", s[: self.rank].clone(), persistent=False)
        self.s = nn.Parameter(s[: self.rank].clone())

    def delta(self) -> Float[Tensor, "out in"]:
        return (self.U * (self.s - self.s0)) @ self.Vh

    def branch(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.Vh) * (self.s - self.s0), self.U)

    def own(self) -> dict[str, nn.Parameter]:
        return {"s": self.s}

    def extra_repr(self) -> str:
        return f"rank={self.rank}"


def leading_rank(values: Float[Tensor, " values"], energy: float, measure: str = "squares") -> int:
    r"""The least r with \(\sum_{i \le r} s_i^p \ge energy \cdot \sum_i s_i^p\); p is 2 for squares, 1 for the sum.

    Args:
        values: singular values, descending.

    Raises:
        ValueError: energy outside (0, 1], or an unknown measure.

    >>> leading_rank(torch.tensor([3.0, 1.0, 1.0]), 0.8), leading_rank(torch.tensor([3.0, 1.0, 1.0]), 0.8, "sum")
    (1, 2)
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy={energy} is a share above 0 and at most 1")
    if measure not in ("squares", "sum"):
        raise ValueError(f"measure={measure!r} is neither 'squares' nor 'sum'")
    parts = values.double().square() if measure == "squares" else values.double()
    held = parts.cumsum(0)
    return min(int((held < energy * held[-1]).sum()) + 1, len(values))


def attach_svfit(
    model: nn.Module,
    pattern: str | Iterable[str],
    rank: int | None = None,
    *,
    energy: float | None = None,
    measure: str = "squares",
    keep: str | Iterable[str] = (),
) -> Attached:
    """`SVFitLinear` on every linear layer that matches; all other parameters are frozen.

    Args:
        rank, energy, measure: as `SVFitLinear` takes them; a rank above a layer's least side is an error.
        keep: names of modules that stay trainable.

    Raises:
        ValueError: nothing matches, or as `SVFitLinear`.
    """
    return attach(
        model, pattern, lambda _, layer: SVFitLinear(layer, rank, energy=energy, measure=measure), nn.Linear, keep
    )


def fingerprint(weight: Tensor) -> str:
    """Sixteen hexadecimal digits of a weight's exact values and shape."""
    values = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def save_svfit(model: nn.Module, path: str | Path) -> Path:
    """Write the singular values alone, and fingerprints of the weights that they belong to, to one file.

    The vectors are computed again on loading. An interruption leaves an earlier file intact.

    Raises:
        ValueError: the model holds no `SVFitLinear`.
    """
    found = {n: a for n, a in adapters(model).items() if isinstance(a, SVFitLinear)}
    if not found:
        raise ValueError("the model holds no SVFit adapter: attach_svfit first, or save before merge() or undo()")
    weights = {name: fingerprint(adapter.base.weight) for name, adapter in found.items()}
    tensors = {f"{name}.s": adapter.s for name, adapter in found.items()}
    save_checkpoint(path, tensors, {"format": _FORMAT, "weights": weights})
    return Path(path)


def load_svfit(model: nn.Module, path: str | Path) -> Attached:
    """Attach what `save_svfit` wrote to the base model that it was trained on.

    Raises:
        ValueError: a damaged file or one of another kind, a layer that the model lacks, or whose weight is not,
            bit for bit, the one that was adapted.
    """
    tensors, header = load_checkpoint(path)
    weights = header.get("weights")
    if header.get("format") != _FORMAT or not isinstance(weights, dict) or set(tensors) != {f"{n}.s" for n in weights}:
        raise ValueError(f"{path} was not written by save_svfit")
    layers = dict(model.named_modules())
    for name, expected in weights.items():
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{path} adapts {name!r}, no linear layer of this {type(model).__name__}: another model's")
        check_base(layer)
        if fingerprint(layer.weight) != expected:
            raise ValueError(f"{name}: its weight is not the one whose singular values {path} holds: another model's")
    attached = attach(model, list(weights), lambda name, layer: SVFitLinear(layer, len(tensors[f"{name}.s"])))
    with torch.no_grad():
        for name in weights:
            attached[name].s.copy_(tensors[f"{name}.s"])
    return attached
