r"""Layer-wise relevance propagation: the answer's parts, handed back layer by layer to the input.

Each rule here is written as the gradient of a changed forward pass, so that relevance is input times gradient: a unit
is frozen (`gramian.analysis.explain.freeze`), and a linear layer \(z = W x + b\) becomes \(\tilde z\,[z/\tilde z]\),
where \(\tilde z\) has the rule's weights and the bracket is a constant. Answers stay the network's own. A network
without biases conserves: the relevance of the inputs sums to that of the outputs.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.analysis.explain.freeze import Frozen, check_evaluation, parameters_at_rest

__all__ = ["Composite", "Relevance", "Rule", "lrp", "lrp_mode"]

Map = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Rule:
    r"""How a linear layer hands relevance back; made by the class methods.

    Source: Montavon et al., Layer-Wise Relevance Propagation: An Overview (2019); the rule for negative inputs of
    gamma: Andéol et al., Learning Domain Invariant Representations by Joint Wasserstein Distance (2021).
    """

    kind: Literal["epsilon", "gamma", "zplus", "zbox", "flat"]
    strength: float = 0.0
    low: float | Tensor = 0.0
    high: float | Tensor = 0.0

    @classmethod
    def epsilon(cls, epsilon: float = 1e-6) -> Rule:
        r"""\(\tilde z = z + \epsilon \operatorname{sign} z\): weak and contradictory evidence is absorbed."""
        return cls("epsilon", _not_negative("epsilon", epsilon))

    @classmethod
    def gamma(cls, gamma: float = 0.25) -> Rule:
        r"""\(\tilde W = W + \gamma W^+\): what speaks for an output counts more; mirrored where signs are negative."""
        return cls("gamma", _not_negative("gamma", gamma))

    @classmethod
    def zplus(cls) -> Rule:
        r"""\(\tilde z = x^+ W^+ + x^- W^-\): only what speaks for an output counts."""
        return cls("zplus")

    @classmethod
    def zbox(cls, low: float | Tensor, high: float | Tensor) -> Rule:
        r"""\(\tilde z = x W - l W^+ - h W^-\), for the layer that reads inputs that lie in [low, high]."""
        return cls("zbox", low=low, high=high)

    @classmethod
    def flat(cls) -> Rule:
        """Relevance spread evenly over what an output reads, for the layer that reads the input."""
        return cls("flat")


def _not_negative(name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}={value} must be zero or positive")
    return value


Composite = Mapping[str, Rule]
"""Rules by the names of modules (``*`` and ``?`` as in file names); the first that matches is taken."""


class Relevance(Frozen):
    """Run a network so that input times gradient is relevance.

    Args:
        model: its linear layers are told apart by their weights.
        composite: the rules; a linear layer without one hands relevance back in proportion to x W.
        source: the input, where the composite has a rule for the layer that reads it.

    Raises:
        ValueError: in the pass, a rule other than epsilon in a network with batch normalization (fold it first), or
            one of the input's rules at another layer, or bounds that do not hold the input.
    """

    def __init__(self, model: nn.Module, composite: Composite | None = None, source: Tensor | None = None) -> None:
        super().__init__()
        self.composite = dict(composite or {})
        self.source = source
        weights = {n: getattr(m, "weight", None) for n, m in model.named_modules()}
        self.names = {id(w): n for n, w in weights.items() if isinstance(w, Tensor)}
        for pattern in self.composite:
            if not any(fnmatch.fnmatchcase(n, pattern) for n in self.names.values()):
                some = ", ".join(list(self.names.values())[:6])
                raise ValueError(f"no layer with weights matches {pattern!r}; layers are named like {some}")
        self.read: tuple[Tensor, list[Tensor]] | None = None
        """What the layer of an input rule reads, and the tensors whose products with their gradients are its
        relevance."""

    def affine(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        if func in (F.batch_norm, torch.batch_norm) and any(r.kind != "epsilon" for r in self.composite.values()):
            raise ValueError(
                "the network has a batch normalization, whose part in the weights a rule cannot see: fold it first, "
                "gramian.nn.fold.fold_batch_norm(model, x)"
            )
        if func not in _LINEAR:
            return None
        given = dict(zip(("input", "weight", "bias"), args[:3]), **kwargs)
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        rule = self._rule(weight)
        if rule is None or not x.requires_grad:
            return None

        def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return func(x, weight, bias, *args[3:], **given)

        z = apply(x.detach(), weight, bias)
        if rule.kind in ("zbox", "flat"):
            parts = [(c, _share(z, c, c > 0)) for c in [self._of_input(rule, x, weight, apply)]]
        else:
            parts = _OF_LAYER[rule.kind](rule.strength, x, weight, bias, z, apply)
        # the value stays z; the gradient is that of the rule's weights
        changed = torch.stack([c * share for c, share in parts]).sum(0)
        return z + (changed - changed.detach())

    def _rule(self, weight: Tensor) -> Rule | None:
        name = self.names.get(id(weight))
        if name is None:
            return None
        return next((r for p, r in self.composite.items() if fnmatch.fnmatchcase(name, p)), None)

    def _of_input(self, rule: Rule, x: Tensor, weight: Tensor, apply: Map) -> Tensor:
        """The rule of the layer that reads the input, behind padding at most."""
        if self.source is None or self.read is not None:
            raise ValueError(f"the rule {rule.kind} is for one layer, the one that reads the input")
        source = self.source
        (seen,) = torch.autograd.grad(x, source, torch.ones_like(x), retain_graph=True, allow_unused=True)
        if seen is None or not torch.equal(seen, torch.ones_like(seen)) or not torch.equal(_push(x, source, source), x):
            raise ValueError(
                f"the rule {rule.kind} is for the layer that reads the input: padding may lie before it, no other layer"
            )

        def leaf(value: float | Tensor) -> Tensor:
            wide = torch.as_tensor(value, dtype=source.dtype, device=source.device).expand_as(source)
            return _push(x, source, wide).detach().requires_grad_()

        if rule.kind == "flat":
            ones = leaf(1.0)
            self.read = (x, [ones])
            return apply(ones, torch.ones_like(weight), None)
        low, high = leaf(rule.low), leaf(rule.high)
        slack = 1e-5 * (high - low).detach().abs()
        if bool((x < low - slack).any()) or bool((x > high + slack).any()):
            raise ValueError(
                f"the input reaches from {float(x.detach().min()):.4g} to {float(x.detach().max()):.4g}, outside the "
                "bounds of the zbox rule: give the least and the largest value that an input can have"
            )
        own = x.detach().requires_grad_()
        self.read = (x, [own, low, high])
        return apply(own, weight, None) - apply(low, weight.clamp(min=0), None) - apply(high, weight.clamp(max=0), None)

    def of(self, out: Tensor, x: Tensor, seeds: Tensor) -> Tensor:
        """Relevance of the input for each of several weightings of the outputs, (count, *x.shape)."""
        inputs = [x, *(self.read[1] if self.read else [])]
        batch = {"retain_graph": True, "is_grads_batched": True, "allow_unused": True}
        found = torch.autograd.grad(out, inputs, seeds, **batch)
        relevance = x.new_zeros(len(seeds), *x.shape) if found[0] is None else found[0] * x.detach()
        if self.read:
            at_layer = sum(g * t.detach() for g, t in zip(found[1:], inputs[1:]) if g is not None)
            if isinstance(at_layer, Tensor):
                # only padding lies between: what falls on it is dropped
                relevance = relevance + torch.autograd.grad(self.read[0], x, at_layer, **batch)[0]
        return relevance.detach()


def _push(out: Tensor, source: Tensor, v: Tensor) -> Tensor:
    """The linear map from `source` to `out`, on `v`: the gradient of a gradient."""
    seed = torch.zeros_like(out).requires_grad_()
    (pulled,) = torch.autograd.grad(out, source, seed, create_graph=True)
    return torch.autograd.grad(pulled, seed, v.detach(), retain_graph=True)[0]


Parts = list[tuple[Tensor, Tensor]]
"""What takes an output's place, by pieces, each with the constant that makes it the output."""


def _share(z: Tensor, changed: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, z / torch.where(where, changed.detach(), 1.0), 0.0)


def _epsilon(strength: float, x: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor, apply: Map) -> Parts:
    return [(apply(x, weight, bias), _share(z.abs(), z.abs() + strength, z != 0))]


def _gamma(strength: float, x: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor, apply: Map) -> Parts:
    def raised(t: Tensor, **half: float) -> Tensor:
        return t + strength * t.clamp(**half)

    up, down = raised(weight, min=0), raised(weight, max=0)
    positive, negative = x * (x > 0), x * (x < 0)
    above = apply(positive, up, None if bias is None else raised(bias, min=0))
    below = apply(positive, down, None if bias is None else raised(bias, max=0))
    if bool((x < 0).any()):
        above, below = above + apply(negative, down, None), below + apply(negative, up, None)
    return [(above, _share(z, above, z > 0)), (below, _share(z, below, z < 0))]


def _zplus(strength: float, x: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor, apply: Map) -> Parts:
    changed = apply(x * (x > 0), weight.clamp(min=0), None if bias is None else bias.clamp(min=0))
    changed = changed + apply(x * (x < 0), weight.clamp(max=0), None)
    return [(changed, _share(z, changed, changed > 0))]


_OF_LAYER = {"epsilon": _epsilon, "gamma": _gamma, "zplus": _zplus}
_LINEAR = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    torch.conv1d, torch.conv2d, torch.conv3d,
}  # fmt: skip


@contextmanager
def lrp_mode(model: nn.Module, composite: Composite | None = None, source: Tensor | None = None) -> Iterator[Relevance]:
    """Within the block the model's answers are its own, and input times gradient is relevance.

    Attention weights, norms' divisors and gates are constants, linear layers have the composite's rules; parameters
    do not ask for gradients meanwhile.

    Raises:
        ValueError: dropout or batch normalization in training mode, or a rule for no layer.

    Source: Ali et al., XAI for Transformers: Better Explanations through Conservative Propagation (2022).

    >>> net = nn.Sequential(nn.LayerNorm(3, elementwise_affine=False, bias=False), nn.Linear(3, 1, bias=False))
    >>> x = torch.tensor([[1.0, 0.0, 4.0]], requires_grad=True)
    >>> with lrp_mode(net):
    ...     y = net(x)
    >>> bool(((x * torch.autograd.grad(y, x)[0]).sum() - y).abs() < 1e-6)  # without lrp_mode the sum is zero
    True
    """
    check_evaluation(model)
    with torch.enable_grad(), parameters_at_rest(model), Relevance(model, composite, source) as mode:
        yield mode


def lrp(
    model: nn.Module,
    x: Float[Tensor, "*shape"],
    weights: Float[Tensor, "*outputs"],
    composite: Composite | None = None,
) -> Float[Tensor, "*shape"]:
    """Relevance of the input for the sum of outputs that `weights` make; one of 1 and zeros asks for one output.

    Args:
        model: in evaluation mode, of one input.
        weights: of the outputs' shape; the relevance that starts at an output is its value times its weight.
        composite: rules by layers' names.

    Raises:
        ValueError: as `lrp_mode` and `Relevance`, or weights of another shape than the outputs.
    """
    source = x.detach().clone().requires_grad_()
    with lrp_mode(model, composite, source) as mode:
        out = model(source.clone())
    if out.shape != weights.shape:
        raise ValueError(f"weights of shape {tuple(weights.shape)} for outputs of shape {tuple(out.shape)}")
    return mode.of(out, source, weights[None])[0]
