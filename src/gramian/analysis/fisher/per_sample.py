"""Gradients of single samples: a fast path over the common layers, vmap for the rest, a loop where vmap fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_flatten, tree_map

from gramian.analysis.fisher import layers

Forward = Callable[[nn.Module, Any], Any]
Losses = Callable[[Any, Any], Tensor]
Pass = tuple[Any, Tensor | None]


@runtime_checkable
class Sink(Protocol):
    """What receives the gradients."""

    def uses(self, name: str, found: list[layers.Use], samples: int, chunk: int) -> None:
        """All uses of one parameter in one pass."""

    def dense(self, name: str, start: int, gradients: Tensor) -> None:
        """Gradients of samples start, start + 1, …: (samples, *shape)."""

    def factors(self, name: str, layer: nn.Module, x: Tensor, g: Tensor, first: bool) -> None:
        """Input and output gradient of one call of a layer."""


def call(model: nn.Module, inputs: Any) -> Any:
    """``model(inputs)``, with a tuple or dictionary unpacked; of what it returns, the logits."""
    if isinstance(inputs, dict):
        output = model(**inputs)
    elif isinstance(inputs, tuple | list):
        output = model(*inputs)
    else:
        output = model(inputs)
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def batch_size(inputs: Any) -> int:
    """The length of the leading axis of the first tensor of the inputs.

    Raises:
        ValueError: no tensor with a sample axis, or an empty batch.
    """
    found = [t for t in tree_flatten(inputs)[0] if isinstance(t, Tensor) and t.ndim]
    if not found or not len(found[0]):
        raise ValueError("the inputs hold no sample: give tensors with a leading axis of samples")
    return len(found[0])


def select(values: Any, index: slice) -> Any:
    """A slice of the samples of everything in a nest of tensors."""
    return tree_map(lambda t: t[index] if isinstance(t, Tensor) and t.ndim else t, values)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside; afterwards all do as before."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


class FastPath:
    """Forward and backward once; the gradients of the layers' outputs, and their inputs, give all samples' gradients.

    Args:
        names: parameter → the name that its gradients go by; by identity, so that tied weights are one.
    """

    def __init__(self, model: nn.Module, names: dict[int, str], max_bytes: int) -> None:
        self.model, self.names, self.max_bytes = model, names, max_bytes
        self.layers: dict[nn.Module, str] = {}
        for name, module in model.named_modules():
            own = [p for p in module.parameters(recurse=False) if id(p) in names]
            if own and type(module) in layers.FAST:
                self.layers[module] = name
        self.parameters = {names[id(p)] for m in self.layers for p in m.parameters(recurse=False) if id(p) in names}

    def run(
        self, inputs: Any, forward: Forward, passes: Callable[[Any], Iterator[Pass]], losses: Losses, sink: Sink
    ) -> tuple[list[Pass], set[str]]:
        """Feed `sink`; returns the passes, and the parameters that the fast path could not see."""
        samples = batch_size(inputs)
        calls: dict[str, int] = {}
        missed: set[str] = set()
        leaves: list[Tensor] = []
        pending: dict[str, list[layers.Use]] = {}
        first = [True]

        def receive(module: nn.Module, x: Tensor, version: int, g: Tensor) -> None:
            if x._version != version:
                missed.update(self._own(module))
                return
            x, g = _by_sample(module, x, g, samples)
            sink.factors(self.layers[module], module, x, g, first[0])
            for key, use in layers.uses(module, x, g).items():
                parameter = getattr(module, key)
                if parameter is not None and id(parameter) in self.names:
                    name = self.names[id(parameter)]
                    pending.setdefault(name, []).append(use)
                    if len(pending[name]) == calls[name]:
                        self._deliver(name, parameter, pending.pop(name), samples, sink)

        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
            x = arguments[0] if arguments else None
            if not _fits(module, x, output, samples):
                missed.update(self._own(module))
                return None
            if len(output) == 1 < samples:  # one row that is broadcast over the samples later
                output = output.expand(samples, *output.shape[1:]).clone()
                x = x.expand(samples, *x.shape[1:])
            if not output.requires_grad:
                leaf = output.detach().requires_grad_()
                leaves.append(leaf)
                output = leaf.clone()
            for name in self._own(module):
                calls[name] = calls.get(name, 0) + 1
            version = x._version
            output.register_hook(lambda g: receive(module, x, version, g))
            return output

        handles = [m.register_forward_hook(hook) for m in self.layers]
        try:
            with frozen(self.model), torch.enable_grad():
                outputs = forward(self.model, inputs)
                done = list(passes(outputs))
                for i, (targets, weights) in enumerate(done):
                    each = losses(outputs, targets)
                    total = (each if weights is None else each * weights.sqrt()).sum()
                    if leaves and total.requires_grad:
                        torch.autograd.grad(total, leaves, retain_graph=i + 1 < len(done), allow_unused=True)
                    for name, found in pending.items():  # a call whose output the loss did not read
                        self._deliver(name, self.model.get_parameter(name), found, samples, sink)
                    pending.clear()
                    first[0] = False
        finally:
            for handle in handles:
                handle.remove()
        return done, missed | (self.parameters - set(calls))

    def _own(self, module: nn.Module) -> set[str]:
        return {self.names[id(p)] for p in module.parameters(recurse=False) if id(p) in self.names}

    def _deliver(self, name: str, parameter: Tensor, found: list[layers.Use], samples: int, sink: Sink) -> None:
        sink.uses(name, found, samples, chunk_of(parameter, self.max_bytes))


def chunk_of(parameter: Tensor, max_bytes: int) -> int:
    """How many samples' gradients of a parameter fit into `max_bytes`; at least one."""
    return max(1, max_bytes // max(1, 2 * parameter.numel() * max(4, parameter.element_size())))


def _fits(module: nn.Module, x: Any, output: Any, samples: int) -> bool:
    """Whether the leading axis of input and output is the samples', or can be made so."""
    if not isinstance(x, Tensor) or not isinstance(output, Tensor) or not x.ndim or len(x) != len(output):
        return False
    if isinstance(module, nn.Conv1d | nn.Conv2d) and x.ndim != module.weight.ndim:
        return False
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and (module.training or module.running_mean is None):
        return False
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        return False
    return len(x) in (1, samples) or (isinstance(module, nn.Linear) and x.ndim == 2 and len(x) % samples == 0)


def _by_sample(module: nn.Module, x: Tensor, g: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    if len(x) != samples:  # (samples · positions, features)
        return x.reshape(samples, -1, x.shape[-1]), g.reshape(samples, -1, g.shape[-1])
    return x, g


class _Whole(nn.Module):
    """The model together with its forward, as one module."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self.run = forward

    def forward(self, inputs: Any) -> Any:
        return self.run(self.model, inputs)


def by_vmap(
    model: nn.Module, parameters: dict[str, nn.Parameter], inputs: Any, pass_: Pass, forward: Forward, losses: Losses,
    sink: Sink, max_bytes: int,
) -> None:  # fmt: skip
    """Gradients of all samples by ``vmap(grad)``, in chunks under `max_bytes`."""
    targets, weights = pass_
    whole = _Whole(model, forward)
    values = {f"model.{name}": p.detach() for name, p in parameters.items()}
    samples = batch_size(inputs)
    scale = torch.ones(samples) if weights is None else weights.sqrt()

    def loss(values: dict[str, Tensor], inputs: Any, targets: Any, scale: Tensor) -> Tensor:
        one = tree_map(lambda t: t.unsqueeze(0) if isinstance(t, Tensor) else t, (inputs, targets))
        return (losses(functional_call(whole, values, (one[0],)), one[1])[0] * scale).float()

    each = vmap(grad(loss), in_dims=(None, 0, None if targets is None else 0, 0), randomness="different")
    size = sum(2 * p.numel() * max(4, p.element_size()) for p in parameters.values())
    chunk = max(1, max_bytes // max(1, size))
    for start in range(0, samples, chunk):
        part = slice(start, min(start + chunk, samples))
        device = next(iter(parameters.values())).device
        found = each(values, select(inputs, part), select(targets, part), scale[part].to(device))
        for name, gradients in found.items():
            sink.dense(name.removeprefix("model."), start, gradients)


def by_loop(
    model: nn.Module, parameters: dict[str, nn.Parameter], inputs: Any, pass_: Pass, forward: Forward, losses: Losses,
    sink: Sink,
) -> None:  # fmt: skip
    """Gradients of one sample after the other by plain autograd."""
    targets, weights = pass_
    wanted = list(parameters.values())
    if not wanted:
        return
    with torch.enable_grad():
        for i in range(batch_size(inputs)):
            one = slice(i, i + 1)
            loss = losses(forward(model, select(inputs, one)), select(targets, one)).sum()
            found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
            scale = 1.0 if weights is None else weights[i].sqrt()
            for name, gradient in zip(parameters, found, strict=True):
                wide = torch.promote_types(gradient.dtype, torch.float32)
                sink.dense(name, i, gradient.to(wide).unsqueeze(0) * scale)
