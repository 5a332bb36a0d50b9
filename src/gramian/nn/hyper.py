r"""Hypernetworks: networks that predict the weights of another one from a few inputs \(\gamma\).

With piecewise linear activations and no bias a hypernetwork is homogeneous, \(h(c\gamma) = c\,h(\gamma)\): the scale of
the predicted weights is that of the input, and training suffers. Two changes cure it: an input encoding of constant
norm, and independent weights \(\theta_0\) to which the prediction is only added.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["HyperNet", "Hypernetized", "OutsideRange", "encode", "hypernetize"]

Encoding = Literal["cos|sin", "z|1-z"] | None
Shape = tuple[int, ...]


class OutsideRange(UserWarning):
    """An input outside [0, 1]: the encoding folds it onto others (cos|sin) or loses its constant norm (z|1-z)."""


def encode(g: Float[Tensor, "*batch size"], mode: Encoding = "cos|sin") -> Float[Tensor, "*batch encoded"]:
    r"""Inputs in [0, 1] as \([\cos(\pi g/2), \sin(\pi g/2)]\), whose norm is \(\sqrt{\text{size}}\) whatever g is.

    ``"z|1-z"`` gives \([g, 1-g]\), of constant sum; None leaves g as it is.

    Raises:
        ValueError: an unknown mode, NaN or infinity.

    Warns `OutsideRange` for an encoded input outside [0, 1].

    Source: Gonzalez Ortiz, Guttag and Dalca, Magnitude Invariant Parametrizations Improve Hypernetwork Learning
    (2023), section 4.1.

    >>> encode(torch.tensor([0.0, 1.0])).abs().round(decimals=4)
    tensor([1., 0., 0., 1.])
    """
    if mode not in ("cos|sin", "z|1-z", None):
        raise ValueError(f"encoding={mode!r} is unknown; choose 'cos|sin', 'z|1-z' or None")
    if not bool(torch.isfinite(g).all()):
        raise ValueError("the inputs hold NaN or infinity")
    if mode is None:
        return g
    if bool(((g < 0) | (g > 1)).any()):
        warnings.warn("inputs outside [0, 1]: scale them before they are encoded", OutsideRange, stacklevel=2)
    if mode == "z|1-z":
        return torch.cat([g, 1 - g], dim=-1)
    return torch.cat([torch.cos(math.pi / 2 * g), torch.sin(math.pi / 2 * g)], dim=-1)


class HyperNet(nn.Module):
    r"""Predicts named tensors: \(\theta = \theta_0 + h(\text{enc}(\gamma))\), h a LeakyReLU network.

    \(\theta_0\) is the bias of h's last layer, started like the weights of an ordinary network.

    Args:
        input_shapes: name → shape of one sample's input.
        output_shapes: name → shape of a predicted tensor.
        hidden: widths of the hidden layers.
        encoding: of the inputs, see `encode`; None with ``residual=False`` is the ordinary hypernetwork.
        residual: whether \(\theta_0\) starts as an ordinary network's weights; otherwise it starts at zero.
        output_bias: whether the last layer has a bias at all.
        generator: source of the initialization.

    Raises:
        ValueError: no input or no output, or a residual without a bias to hold it.

    >>> net = HyperNet({"g": (1,)}, {"weight": (3, 2), "bias": (3,)}, hidden=(8,))
    >>> {k: tuple(v.shape) for k, v in net(g=torch.tensor([0.3])).items()}
    {'weight': (3, 2), 'bias': (3,)}
    """

    def __init__(
        self,
        input_shapes: Mapping[str, Shape],
        output_shapes: Mapping[str, Shape],
        hidden: Sequence[int] = (16, 64),
        encoding: Encoding = "cos|sin",
        residual: bool = True,
        output_bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not input_shapes or not output_shapes:
            raise ValueError("a hypernetwork needs at least one input and one output")
        if residual and not output_bias:
            raise ValueError("residual=True keeps the independent weights in the last layer's bias: output_bias=True")
        self.input_shapes = {n: tuple(s) for n, s in input_shapes.items()}
        self.output_shapes = {n: tuple(s) for n, s in output_shapes.items()}
        self.encoding: Encoding = encoding
        encode(torch.zeros(1), encoding)
        entering = sum(math.prod(s) for s in self.input_shapes.values()) * (1 if encoding is None else 2)
        widths = [entering, *hidden, sum(math.prod(s) for s in self.output_shapes.values())]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=output_bias or i < len(hidden)) for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        for layer in self.layers[:-1]:
            _kaiming(layer.weight, layer.out_features, generator)
            nn.init.zeros_(layer.bias)
        start = {n: torch.zeros(s) for n, s in self.output_shapes.items()}
        with torch.no_grad():
            for name, rows in zip(start, self.layers[-1].weight.split([t.numel() for t in start.values()])):
                # a fan for each predicted tensor, or a large one would silence a small one
                _kaiming(rows, len(rows), generator)
                if residual and len(self.output_shapes[name]) > 1:
                    _kaiming(start[name], math.prod(self.output_shapes[name][1:]), generator)
            if output_bias:
                self.set_independent(start)

    @classmethod
    def from_existing(
        cls, weights: Mapping[str, Tensor], input_shapes: Mapping[str, Shape], **settings: Any
    ) -> HyperNet:
        """A hypernetwork that predicts exactly `weights` at first: they are θ₀, and the last layer starts at zero."""
        net = cls(input_shapes, {n: tuple(w.shape) for n, w in weights.items()}, **settings)
        net.set_independent(weights)
        nn.init.zeros_(net.layers[-1].weight)
        return net

    def set_independent(self, weights: Mapping[str, Tensor]) -> None:
        """Write θ₀.

        Raises:
            ValueError: other names or shapes than the outputs', or no bias to hold them.
        """
        bias = self.layers[-1].bias
        if bias is None:
            raise ValueError("the last layer has no bias to hold independent weights")
        self._same(self.output_shapes, weights, "weights")
        for name, shape in self.output_shapes.items():
            if tuple(weights[name].shape) != shape:
                raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, not {shape}")
        with torch.no_grad():
            bias.copy_(torch.cat([weights[n].reshape(-1) for n in self.output_shapes]))

    @staticmethod
    def _same(needed: Mapping[str, Any], given: Mapping[str, Any], what: str) -> None:
        missing, extra = sorted(needed.keys() - given.keys()), sorted(given.keys() - needed.keys())
        if missing or extra:
            raise ValueError(f"the {what} lack {missing or 'nothing'} and have {extra or 'nothing'} too many")

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The predicted tensors; with a leading batch axis if every input has one.

        Raises:
            ValueError: missing or extra names, shapes that do not fit, or batches of different size.
        """
        self._same(self.input_shapes, inputs, "inputs")
        flat, batches = [], set()
        for name in sorted(self.input_shapes):
            shape, x = self.input_shapes[name], inputs[name]
            if x.shape == shape:
                batches.add(None)
                flat.append(x.reshape(1, -1))
            elif x.shape[1:] == shape and x.ndim == len(shape) + 1:
                batches.add(len(x))
                flat.append(x.reshape(len(x), -1))
            else:
                raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be {shape}, or that behind a batch axis")
        if len(batches) != 1:
            raise ValueError(f"the inputs have different batches: {sorted(map(str, batches))}")
        hidden = torch.cat([encode(x, self.encoding) for x in flat], dim=-1)
        for layer in self.layers[:-1]:
            hidden = nn.functional.leaky_relu(layer(hidden))
        output = self.layers[-1](hidden)
        parts = output.split([math.prod(s) for s in self.output_shapes.values()], dim=-1)
        lead = () if batches == {None} else (len(output),)
        return {n: p.reshape(*lead, *s) for (n, s), p in zip(self.output_shapes.items(), parts)}


def _kaiming(weight: Tensor, fan: int, generator: torch.Generator | None) -> None:
    gain = math.sqrt(2 / (1 + 0.01**2))
    with torch.no_grad():
        weight.normal_(0, gain / math.sqrt(max(1, fan)), generator=generator)


class Hypernetized(nn.Module):
    """A network some of whose parameters are predicted; see `hypernetize`."""

    def __init__(self, module: nn.Module, hypernet: HyperNet) -> None:
        super().__init__()
        self.hypernet = hypernet
        self.base = copy.deepcopy(module)
        for name in hypernet.output_shapes:
            owner, _, leaf = name.rpartition(".")
            part = self.base.get_submodule(owner)
            value = part._parameters.pop(leaf)
            part.register_buffer(leaf, value.detach().clone(), persistent=False)

    def forward(self, *inputs: Tensor, **gamma: Tensor) -> Any:
        """The network's output; with a batch of γ, sample i passes through the weights of γ[i]."""
        weights = self.hypernet(**gamma)
        name, shape = next(iter(self.hypernet.output_shapes.items()))
        if weights[name].shape == shape:
            return functional_call(self.base, weights, inputs)

        def single(own: dict[str, Tensor], *sample: Tensor) -> Tensor:
            return functional_call(self.base, own, tuple(s[None] for s in sample))[0]

        return torch.func.vmap(single)(weights, *inputs)


def hypernetize(
    module: nn.Module, patterns: str | Sequence[str], input_shapes: Mapping[str, Shape], **settings: Any
) -> Hypernetized:
    """A copy of a network whose chosen parameters are predicted from γ; it computes at first what it computed before.

    Args:
        module: the network, left as it was.
        patterns: regular expressions; a parameter is predicted if one matches its whole name.
        input_shapes: γ's names and shapes.
        settings: further arguments of `HyperNet`.

    Raises:
        ValueError: patterns that match no parameter.

    >>> net = hypernetize(nn.Linear(3, 2), "weight", {"g": (1,)})
    >>> net(torch.ones(5, 3), g=torch.rand(5, 1)).shape
    torch.Size([5, 2])
    """
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    chosen = {n: p.detach() for n, p in module.named_parameters() if any(re.fullmatch(w, n) for w in wanted)}
    if not chosen:
        known = ", ".join(n for n, _ in module.named_parameters())
        raise ValueError(f"{wanted} match no parameter; the parameters are: {known}")
    return Hypernetized(module, HyperNet.from_existing(chosen, input_shapes, **settings))
