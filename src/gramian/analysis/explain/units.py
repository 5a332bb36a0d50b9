"""What each nonlinear unit keeps when it is frozen, and which functions are affine as they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import resolve_name

__all__ = ["AFFINE", "UNITS", "Rule", "Unsupported", "depends", "name_of", "tensors"]

Rule = tuple[Callable[..., Any], Callable[..., Any]]
"""A unit: (what to remember of its call, the affine map that takes its place given that)."""


class Unsupported(ValueError):
    """A nonlinear function that has no frozen form; the message names it."""


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from tensors(v)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def depends(*values: Any) -> bool:
    return any(t.requires_grad for t in tensors(values))


def name_of(func: Any) -> str:
    return resolve_name(func) or getattr(func, "__name__", repr(func))


def _put(x: Tensor, out: Tensor, func: Any, args: Any, kwargs: Any) -> Tensor:
    """The unit's output, written over its input where the network asks for that."""
    in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
    if in_place or kwargs.get("inplace") or any(a is True for a in args[1:]):
        return x.copy_(out)
    return out


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    """The unit itself on a copy of its input, outside the graph."""
    with torch.no_grad():
        return func(args[0].detach().clone(), *args[1:], **kwargs)


def _input(args: Any) -> Tensor:
    return args[0].clone()  # what is written over afterwards must not be what the graph remembers


# units that pass, cut or scale each entry: y = gain · x + offset


def _piece(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    """Slope and offset of a piecewise linear unit, by its value at the point and beside it."""
    with torch.enable_grad():
        x = args[0].detach().clone().requires_grad_()
        # an in-place function may not write over a leaf
        y = func(x.clone(), *args[1:], **kwargs)
        (slope,) = torch.autograd.grad(y.sum(), x)
    offset = (y - slope * x).detach()
    # what is not clipped has no offset: without this, rounding would leave one
    return slope, torch.where(offset.abs() > 8 * torch.finfo(x.dtype).eps * (1 + x.abs()), offset, 0).detach()


def _gain(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    r"""Gain \(f(x)/x\) of a unit with \(f(0) = 0\); \(f'(0)\) at zero."""
    x, y = args[0].detach(), _call(func, args, kwargs)
    with torch.enable_grad():
        zero = x.new_zeros(()).requires_grad_()
        (slope,) = torch.autograd.grad(func(zero.clone(), *args[1:], **kwargs), zero)
    return torch.where(x == 0, slope, y / torch.where(x == 0, 1.0, x)), x.new_zeros(())


def _scale(state: tuple[Tensor, Tensor], func: Any, args: Any, kwargs: Any) -> Tensor:
    gain, offset = state
    return _put(args[0], _input(args) * gain + offset, func, args, kwargs)


# units whose value stays


def _value(func: Any, args: Any, kwargs: Any) -> Tensor:
    return _call(func, args, kwargs)


def _hold(state: Any, func: Any, args: Any, kwargs: Any) -> Any:
    return _put(args[0], state, func, args, kwargs)


# pooling keeps the winners


def _winners(func: Any, args: Any, kwargs: Any) -> Tensor:
    x = args[0].detach()
    places = 2 if func in _POOL_2D else 1
    named = dict(zip(("kernel_size", "stride", "padding", "dilation", "ceil_mode"), args[1:]), **kwargs)
    if named.pop("return_indices", False):
        raise Unsupported("max pooling that returns its indices has no frozen form here")
    pool = F.max_pool2d if places == 2 else F.max_pool1d
    return pool(x, return_indices=True, **named)[1]


def _gather(winners: Tensor, func: Any, args: Any, kwargs: Any) -> Tensor:
    x, places = args[0], 2 if func in _POOL_2D else 1
    flat = x.flatten(-places)
    return flat.gather(-1, winners.flatten(-places)).view(winners.shape)


_POOL_2D = (F.max_pool2d, torch.max_pool2d)


# normalization keeps its divisor


def _norm_arguments(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    return dict(zip(_NORMS[func], args), **kwargs)


def _divisor(func: Any, args: Any, kwargs: Any) -> Tensor:
    a = _norm_arguments(func, args, kwargs)
    x = a["input"].detach()
    if func is F.normalize:
        power, dim, least = a.get("p", 2.0), a.get("dim", 1), a.get("eps", 1e-12)
        return torch.linalg.vector_norm(x, power, dim, keepdim=True).clamp(min=least)
    folded, axes = _folded(func, x, a)
    mean_square = folded.square().mean(axes, keepdim=True)
    if func is not F.rms_norm:
        mean_square = folded.var(axes, unbiased=False, keepdim=True)
    eps = a.get("eps")
    return (mean_square + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt()


def _folded(func: Any, x: Tensor, a: dict[str, Any]) -> tuple[Tensor, tuple[int, ...]]:
    """The input with the axes that are normalized together, and which they are."""
    if func is F.group_norm:
        return x.unflatten(1, (a["num_groups"], -1)), tuple(range(2, x.ndim + 1))
    return x, tuple(range(x.ndim - len(a["normalized_shape"]), x.ndim))


def _normalize(divisor: Tensor, func: Any, args: Any, kwargs: Any) -> Tensor:
    a = _norm_arguments(func, args, kwargs)
    x = a["input"]
    if func is F.normalize:
        return x / divisor
    folded, axes = _folded(func, x, a)
    if func is not F.rms_norm:
        folded = folded - folded.mean(axes, keepdim=True)
    out = (folded / divisor).view_as(x)
    weight, bias = a.get("weight"), a.get("bias")
    if func is F.group_norm:
        weight, bias = (None if p is None else p.view(-1, *[1] * (x.ndim - 2)) for p in (weight, bias))
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


_NORMS = {
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.rms_norm: ("input", "normalized_shape", "weight", "eps"),
    F.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    F.normalize: ("input", "p", "dim", "eps"),
}


# attention keeps its weights, a product of two signals is such a weight


def _weights(func: Any, args: Any, kwargs: Any) -> Tensor:
    a = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args), **kwargs)
    query, key, mask = a["query"].detach(), a["key"].detach(), a.get("attn_mask")
    if a.get("dropout_p", 0.0):
        raise ValueError("attention with dropout differs from pass to pass: call model.eval()")
    if a.get("enable_gqa"):
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scale = a.get("scale")
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if a.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def _attend(weights: Tensor, func: Any, args: Any, kwargs: Any) -> Tensor:
    value = args[2] if len(args) > 2 else kwargs["value"]
    if weights.shape[:-2] != value.shape[:-2]:  # several queries share a value
        value = value.repeat_interleave(weights.shape[-3] // value.shape[-3], -3)
    return weights @ value


def _product(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """None where one factor does not depend on the input: affine as it stands."""
    factors = [t for t in tensors((args, kwargs)) if t.requires_grad]
    if len(factors) < 2:
        return None
    if func in _SCORES:
        with torch.no_grad():
            return func(*args, **kwargs)
    raise Unsupported(
        f"{name_of(func)} of two tensors that both depend on the input: which of them is the gate? Detach that one in "
        "the model"
    )


def _quotient(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    below = args[1] if len(args) > 1 else kwargs.get("other")
    if func in (Tensor.__rdiv__, Tensor.__rtruediv__):
        below = args[0]
    if isinstance(below, Tensor) and below.requires_grad:
        raise Unsupported(f"{name_of(func)} by a tensor that depends on the input cannot be frozen: detach the divisor")
    return None


def _product_value(state: Tensor, func: Any, args: Any, kwargs: Any) -> Tensor:
    return state


_SCORES = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.einsum)


def _units() -> dict[Any, Rule]:
    units: dict[Any, Rule] = {}

    def add(rule: Rule, *names: str) -> None:
        for name in names:
            for home in (F, torch, Tensor, torch.special):
                for spelled in (name, f"{name}_"):
                    if callable(getattr(home, spelled, None)):
                        units[getattr(home, spelled)] = rule

    add((_piece, _scale), "relu", "relu6", "hardtanh", "leaky_relu", "clamp", "clamp_min", "clamp_max", "abs",
        "threshold")  # fmt: skip
    add((_gain, _scale), "silu", "gelu", "tanh", "elu", "selu", "celu", "mish", "hardswish", "softsign", "pow",
        "square", "tanhshrink")  # fmt: skip
    add((_value, _hold), "sigmoid", "hardsigmoid", "softmax", "rsqrt", "sqrt", "expit")
    units[Tensor.__pow__] = (_gain, _scale)
    units[F.max_pool1d] = units[F.max_pool2d] = units[torch.max_pool2d] = (_winners, _gather)
    units[F.scaled_dot_product_attention] = (_weights, _attend)
    units.update(dict.fromkeys(_NORMS, (_divisor, _normalize)))
    products = (*_SCORES, torch.mul, torch.multiply, Tensor.mul, Tensor.mul_, Tensor.multiply, Tensor.__mul__,
                Tensor.__rmul__, Tensor.__imul__)  # fmt: skip
    units.update(dict.fromkeys(products, (_product, _product_value)))
    quotients = (torch.div, torch.divide, torch.true_divide, Tensor.div, Tensor.div_, Tensor.__truediv__,
                 Tensor.__rtruediv__, Tensor.__rdiv__, Tensor.__itruediv__)  # fmt: skip
    units.update(dict.fromkeys((q for q in quotients if q is not None), (_quotient, _product_value)))
    return units


_AFFINE_NAMES = """
add add_ sub sub_ subtract rsub neg negative sum mean cumsum __add__ __radd__ __iadd__ __sub__ __rsub__
__isub__ __neg__ __getitem__ view view_as reshape reshape_as permute transpose transpose_ t swapaxes swapdims
movedim moveaxis flatten unflatten squeeze unsqueeze expand expand_as repeat repeat_interleave tile cat concat
stack split split_with_sizes chunk tensor_split unbind contiguous clone to type type_as float double half bfloat16
cpu cuda pad conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear avg_pool1d avg_pool2d
avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample pixel_shuffle
pixel_unshuffle dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout batch_norm select narrow
index_select gather roll flip masked_fill masked_fill_ where diagonal tril triu unfold fold copy_ detach
requires_grad_
"""


def _affine() -> set[Any]:
    homes = (F, torch, Tensor)
    found = {getattr(h, n) for n in _AFFINE_NAMES.split() for h in homes if callable(getattr(h, n, None))}
    return found | {getattr(Tensor, n).__get__ for n in ("T", "mT", "H", "mH", "data")}


UNITS = _units()
AFFINE = _affine()
