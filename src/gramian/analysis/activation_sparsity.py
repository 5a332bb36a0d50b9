r"""How sparse a network's feed-forward layers can be made without harm: thresholds by a common error of their output.

A feed-forward layer's output is a sum over its neurons, \(\mathrm{FFN}(x) = \sum_i h_i w_i\), with \(h\) what flows
into the down projection and \(w_i\) that projection's column i. A neuron whose contribution \(\|h_i w_i\|\) is under
the layer's threshold is dropped; what that costs is the cumulative error of tail truncation

\[ \mathrm{CETT} = \Bigl\|\sum_{i\ \text{dropped}} h_i w_i\Bigr\| \Big/ \|\mathrm{FFN}(x)\|. \]

One CETT for all layers turns into one threshold a layer.

Source: Luo et al., Sparsing Law: Towards Large Language Models with Greater Activation Sparsity (2024), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.analysis.perplexity import negative_log_likelihood
from gramian.analysis.reducers import Reservoir
from gramian.analysis.taps import Taps
from gramian.lab import progress_bar

DOWN_PROJECTIONS = ("*.mlp.down_proj", "*.mlp.c_proj", "*.mlp.fc2", "*.fc2", "*.mlp.dense_4h_to_h", "*.output.dense",
                    "*.feed_forward.down")  # fmt: skip
"""Names under which the networks of transformers, and ours, keep the last layer of a feed-forward block."""


def down_projections(model: nn.Module, pattern: str | None = None) -> dict[str, nn.Linear]:
    """The down projections of a model's feed-forward layers, by name.

    Args:
        pattern: their names, as in file names; without it `DOWN_PROJECTIONS` are tried in turn.

    Raises:
        ValueError: none is found, or what is found is not a linear layer.
    """
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    for tried in (pattern,) if pattern else DOWN_PROJECTIONS:
        if tried == "*.output.dense":  # BERT also calls its attention's output so
            found = {n: m for n, m in _matching(linear, tried).items() if not n.endswith("attention.output.dense")}
        else:
            found = _matching(linear, tried)
        if found:
            return found
    some = ", ".join(list(linear)[:6]) or "(none)"
    raise ValueError(f"no down projection of a feed-forward layer found; name them with pattern=. Layers: {some}")


def _matching(linear: dict[str, nn.Linear], pattern: str) -> dict[str, nn.Linear]:
    from fnmatch import fnmatchcase

    return {n: m for n, m in linear.items() if fnmatchcase(f".{n}", pattern) or fnmatchcase(n, pattern)}


def contributions(
    hidden: Float[Tensor, "tokens neurons"], down: Float[Tensor, "width neurons"]
) -> Float[Tensor, "tokens neurons"]:
    r"""The norm of what each neuron adds to the output: \(|h_i| \, \|w_i\|\).

    Raises:
        ValueError: the shapes do not fit.
    """
    if hidden.ndim != 2 or down.ndim != 2 or hidden.shape[1] != down.shape[1]:
        raise ValueError(
            f"hidden (tokens, neurons) and down (width, neurons), got {(*hidden.shape,)}, {(*down.shape,)}"
        )
    return hidden.abs() * torch.linalg.vector_norm(down, dim=0)


def cett(
    hidden: Float[Tensor, "tokens neurons"], down: Float[Tensor, "width neurons"], threshold: float
) -> Float[Tensor, " tokens"]:
    """The error of dropping every neuron whose contribution is under `threshold`, for each token.

    A token whose full output is zero has error 0: nothing can be dropped from it.

    Raises:
        ValueError: the shapes do not fit, or a negative threshold.

    >>> h, w = torch.tensor([[3.0, 4.0]]), torch.eye(2)
    >>> cett(h, w, 3.5), cett(h, w, 9.0)
    (tensor([0.6000]), tensor([1.]))
    """
    if threshold < 0:
        raise ValueError(f"threshold={threshold} is negative; contributions are norms")
    dropped = hidden.masked_fill(contributions(hidden, down) >= threshold, 0) @ down.mT
    whole = torch.linalg.vector_norm(hidden @ down.mT, dim=1)
    tiny = torch.finfo(hidden.dtype).tiny
    return torch.where(whole > 0, torch.linalg.vector_norm(dropped, dim=1) / whole.clamp(min=tiny), 0)


@dataclass(frozen=True)
class Curve:
    """One layer's mean CETT and share of dropped neurons at a rising series of thresholds."""

    thresholds: Float[Tensor, " points"]
    errors: Float[Tensor, " points"]
    sparsity: Float[Tensor, " points"]

    def threshold_at(self, error: float) -> float:
        """The threshold whose mean CETT is `error`, by interpolation between the measured points."""
        return self._read(error, self.errors, self.thresholds)

    def sparsity_at(self, error: float) -> float:
        """The share of neurons dropped at that threshold."""
        return self._read(error, self.errors, self.sparsity)

    @staticmethod
    def _read(at: float, x: Tensor, y: Tensor) -> float:
        import numpy

        return float(numpy.interp(at, x.numpy(), y.numpy()))


def measure_curves(
    model: nn.Module,
    ids: Int[Tensor, " tokens"],
    pattern: str | None = None,
    *,
    points: int = 25,
    tokens: int = 256,
    generator: torch.Generator | None = None,
    show_progress: bool | None = None,
) -> dict[str, Curve]:
    """The CETT curve of every feed-forward layer while a language model reads a text.

    A uniform sample of `tokens` hidden states a layer is kept, so that memory does not grow with the text;
    the thresholds tried are quantiles of the contributions, zero among them.

    Raises:
        ValueError: no layer found, or fewer than two points or tokens.
    """
    if points < 2 or tokens < 2:
        raise ValueError(f"points={points} and tokens={tokens}: at least 2 of each")
    layers = down_projections(model, pattern)
    generator = generator or torch.Generator().manual_seed(0)
    with Taps(model, {name: [Reservoir(tokens, generator)] for name in layers}, side="in") as taps, torch.no_grad():
        for piece in ids.split(512):
            model(piece.unsqueeze(0))
    shares = torch.linspace(0, 1, points, dtype=torch.float64)
    found = {}
    for name, layer in progress_bar(layers.items(), "CETT curves", total=len(layers), show=show_progress):
        hidden, down = taps[name][0].rows.float(), layer.weight.detach().float()  # type: ignore[attr-defined]
        sizes = contributions(hidden, down).flatten().sort().values
        at = sizes[(shares * (len(sizes) - 1)).long()].unique()
        # a threshold of zero drops nothing; just above the largest, everything
        at = torch.cat([at.new_zeros(1), at[at > 0], at[-1:] * (1 + 1e-5)])
        errors = torch.stack([cett(hidden, down, float(t)).mean() for t in at]).double()
        # averages over tokens may dip by rounding; a curve to be inverted must not
        found[name] = Curve(at.double(), errors.cummax(0).values, torch.searchsorted(sizes, at).double() / len(sizes))
    return found


Drop = Callable[[Tensor], Tensor]


@contextmanager
def dropping(model: nn.Module, rules: dict[str, Drop]) -> Iterator[dict[str, list[float]]]:
    """While the block runs, rewrite what flows into each named down projection; yields the shares of zeros.

    Args:
        rules: for each layer's name a function from hidden states (…, neurons) to hidden states with zeros.

    Yields:
        for each layer the share of zeros of every call, filled as the model runs.
    """
    shares: dict[str, list[float]] = {name: [] for name in rules}

    def edit(name: str, rule: Drop) -> Drop:
        def apply(hidden: Tensor) -> Tensor:
            kept = rule(hidden)
            shares[name].append(float((kept == 0).double().mean()))
            return kept

        return apply

    with Taps(model, {name: edit(name, rule) for name, rule in rules.items()}, side="in", mode="write"):
        yield shares


def threshold_rule(threshold: float, down: Float[Tensor, "width neurons"]) -> Drop:
    """Drop the neurons whose contribution is under `threshold`."""
    norms = torch.linalg.vector_norm(down.detach(), dim=0)
    return lambda hidden: hidden.masked_fill(hidden.abs() * norms < threshold, 0)


def magnitude_rule(epsilon: float) -> Drop:
    """Drop hidden states of size under `epsilon`, the same in every layer (FAT-ε)."""
    return lambda hidden: hidden.masked_fill(hidden.abs() < epsilon, 0)


def top_k_rule(share: float, down: Float[Tensor, "width neurons"]) -> Drop:
    """Keep of each token the fraction `share` of neurons that contribute most (Top-k).

    Raises:
        ValueError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} is not in (0, 1]")
    norms = torch.linalg.vector_norm(down.detach(), dim=0)
    keep = max(1, round(share * len(norms)))

    def rule(hidden: Tensor) -> Tensor:
        best = (hidden.abs() * norms).topk(keep, dim=-1).indices
        return torch.zeros_like(hidden).scatter(-1, best, hidden.gather(-1, best))

    return rule


@dataclass(frozen=True)
class Sparsity:
    """How a model does with some of its neurons dropped.

    Attributes:
        sparsity: the share of dropped neurons, averaged over the layers.
        layers: the same by layer.
        ratio: its perplexity over the whole model's.
        error: the CETT at which the thresholds were set; NaN for other rules.
    """

    sparsity: float
    layers: dict[str, float]
    ratio: float
    error: float = math.nan


def sparsity_with(
    model: nn.Module, ids: Int[Tensor, " tokens"], rules: dict[str, Drop], base: float | None = None
) -> Sparsity:
    """Perplexity ratio and share of zeros with the rules in force.

    Args:
        base: the whole model's mean negative log-likelihood, if it is known.
    """
    base = negative_log_likelihood(model, ids) if base is None else base
    with dropping(model, rules) as shares:
        nats = negative_log_likelihood(model, ids)
    layers = {name: sum(s) / len(s) for name, s in shares.items()}
    ratio = math.exp(min(700.0, nats - base))
    return Sparsity(sum(layers.values()) / len(layers), layers, ratio)


def sparsity_at_error(
    model: nn.Module,
    ids: Int[Tensor, " tokens"],
    curves: dict[str, Curve],
    error: float,
    base: float | None = None,
) -> Sparsity:
    """The model with every layer's threshold at one mean CETT.

    Raises:
        ValueError: an error outside [0, 1].
    """
    if not 0 <= error <= 1:
        raise ValueError(f"error={error}: a CETT is set between 0 and 1")
    rules = {
        name: threshold_rule(curve.threshold_at(error), model.get_submodule(name).weight)  # type: ignore[arg-type]
        for name, curve in curves.items()
    }
    found = sparsity_with(model, ids, rules, base)
    return Sparsity(found.sparsity, found.layers, found.ratio, error)


def ppl_sparsity(
    model: nn.Module,
    ids: Int[Tensor, " tokens"],
    percent: float,
    curves: dict[str, Curve] | None = None,
    *,
    tolerance: float = 1e-3,
    show_progress: bool | None = None,
) -> Sparsity:
    r"""PPL-p% sparsity: the share of neurons that can be dropped while perplexity rises by p% at most.

    Bisects the common CETT on [0, 1] until it is known to `tolerance`, and returns the largest found whose
    perplexity ratio is at most \(1 + p/100\).

    Args:
        ids: the text, which also measures the curves where none are given.
        percent: p.

    Raises:
        ValueError: p negative, or a perplexity that is not finite.
    """
    if percent < 0:
        raise ValueError(f"percent={percent} is negative; the perplexity may rise by 0% or more")
    base = negative_log_likelihood(model, ids)
    if not math.isfinite(base):
        raise ValueError(f"the model's own loss on this text is {base}")
    curves = measure_curves(model, ids, show_progress=show_progress) if curves is None else curves
    low, high = 0.0, 1.0
    best = sparsity_at_error(model, ids, curves, 0.0, base)
    steps: Iterable[int] = range(max(1, math.ceil(math.log2(1 / tolerance))))
    for _ in progress_bar(steps, "PPL-p% sparsity", show=show_progress):
        middle = (low + high) / 2
        found = sparsity_at_error(model, ids, curves, middle, base)
        if found.ratio <= 1 + percent / 100:
            low, best = middle, found
        else:
            high = middle
    return best
