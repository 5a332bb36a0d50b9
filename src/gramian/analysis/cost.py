"""What a network costs: its parameters, and the operations of one forward pass, counted without running it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from gramian.linalg import scan  # noqa: F401 - registers the operators that are counted below

CONVENTIONS = ("macs", "flops")


def parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """How many parameters a network has; one that several modules share counts once.

    Buffers, such as the statistics of batch normalization, are not parameters.

    Args:
        model: the network; on the meta device too.
        trainable: True counts only those that take a gradient.

    >>> parameters(nn.Linear(10, 4))
    44
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def flops(model: nn.Module, *inputs: Any, convention: str = "macs", real: bool = False, **keywords: Any) -> int:
    """The operations of one forward pass, as papers publish them.

    Convolutions, linear layers, matrix products and attention count their multiply–accumulates: once under
    "macs", which is what papers on vision call FLOPs, and as two operations under "flops". A selective scan of
    batch b, length l, d channels and state n adds 9·b·l·d·n, and b·l·d each for its skip and its gate, under either.
    Norms, activations, additions, pooling, resizing and transforms count nothing: the convention leaves them out.

    The pass runs on tensors without storage, which know their shape and device (a network on the meta device
    does as well): neither memory for weights nor arithmetic is spent, and `model` is left as it is.

    Args:
        model: the network; it is counted in its present mode (training or evaluation).
        inputs, keywords: example inputs of its forward; only their shapes and types matter.
        convention: "macs" or "flops".
        real: True runs a real pass instead, for a network that decides by the values it sees.

    Raises:
        ValueError: an unknown convention, or a network that reads values, which a pass on shapes does not have.

    Source: `torch.utils.flop_counter` for the products; the scan's term as counted for VMamba (Liu et al., 2024).

    >>> flops(nn.Linear(10, 4), torch.zeros(3, 10)), flops(nn.Linear(10, 4), torch.zeros(3, 10), convention="flops")
    (120, 240)
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention={convention!r} is not one of {', '.join(CONVENTIONS)}")
    counter = FlopCounterMode(display=False, custom_mapping={**_SCANS, **_PRODUCTS})
    if real:
        with torch.no_grad(), _plain_attention(), counter:
            model(*inputs, **keywords)
        return _total(counter, convention)
    shapes = FakeTensorMode(allow_non_fake_inputs=True)
    network = _without_storage(model, shapes)
    if any(p.is_meta for p in model.parameters()):
        inputs, keywords = tree_map(lambda v: v.to("meta") if isinstance(v, Tensor) else v, (inputs, keywords))
    inputs, keywords = tree_map(lambda v: _faked(v, shapes), (inputs, keywords))
    try:
        with torch.no_grad(), _plain_attention(), shapes, counter:
            network(*inputs, **keywords)
    except _READS_VALUES as error:
        raise ValueError(
            f"{type(model).__name__} reads values in its forward pass ({str(error).splitlines()[0]}); "
            "count a real pass with real=True"
        ) from error
    return _total(counter, convention)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without torch's fused encoder layer for inference: one operator, of which the counter sees nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _total(counter: FlopCounterMode, convention: str) -> int:
    total = 0
    for operator, count in counter.get_flop_counts().get("Global", {}).items():
        total += count if operator in _SCANS or convention == "flops" else count // 2
    return int(total)


def _without_storage(model: nn.Module, shapes: FakeTensorMode) -> nn.Module:
    """A copy of the network without its numbers; parameters that were shared stay so."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(_faked(parameter.detach(), shapes), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = _faked(buffer.detach(), shapes)
    return copy.deepcopy(model, memo)


def _faked(value: Any, shapes: FakeTensorMode) -> Any:
    return shapes.from_tensor(value, static_shapes=True) if isinstance(value, Tensor) else value


def _scan(u: Any, dt: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None, *rest: Any, **more: Any) -> int:
    """The published count of a selective scan; the counter hands over shapes in place of tensors."""
    batch, channels, length = u
    steps = batch * channels * length
    return 9 * steps * A[-1] + steps * ((D is not None) + (z is not None))


def _attention(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    """The two products of attention; torch counts them for the fused operators of GPUs and not for the CPU's."""
    return sdpa_flop_count(query, key, value)


_SCANS = {torch.ops.gramian.selective_scan: _scan}
_PRODUCTS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
_READS_VALUES = (DataDependentOutputException, DynamicOutputShapeException)
