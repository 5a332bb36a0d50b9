r"""Make a language model's feed-forward layers skip neurons: CHESS, and CATS before it.

Of a gated layer \(y = W_\text{down}(u \odot g)\), \(u = W_\text{up} x\), \(g = a(W_\text{gate} x)\), closing gate i
costs about \(|u_i g_i|\). CATS closes the gates under one threshold on \(|g_i|\). CHESS replaces the unknown \(|u_i|\)
by its mean over a calibration text, \(m_i\), pools a layer's scores \(m_i |g_i|\) and takes their k-quantile \(\tau\):
gate i closes under \(t_i = \tau / m_i\). In attention it drops small inputs of the query and output projections.

Source: He et al., CHESS: Optimizing LLM Inference via Channel-Wise Thresholding and Selective Sparsification (2024);
Lee et al., CATS (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.analysis.reducers import Reservoir
from gramian.analysis.taps import Taps
from gramian.nn.sparse.gated import SparseGatedMLP, ThresholdedLinear
from gramian.surgery.swap import Handle, swap

_SAMPLE = 1024
"""Tokens of the calibration text that are kept, a layer."""


@dataclass(frozen=True)
class GatedMLP:
    """The parts of a gated feed-forward layer."""

    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    activation: Callable[[Tensor], Tensor]


def gated_mlps(model: nn.Module) -> dict[str, GatedMLP]:
    """The gated feed-forward layers of a model, by name: those with a gate, an up and a down projection.

    Raises:
        ValueError: there are none; a plain MLP has no gate to close.
    """
    found = {}
    for name, module in model.named_modules():
        parts = [getattr(module, f"{part}_proj", getattr(module, part, None)) for part in ("gate", "up", "down")]
        activation = getattr(module, "act_fn", getattr(module, "activation", None))
        if name and all(isinstance(p, nn.Linear) for p in parts) and callable(activation):
            found[name] = GatedMLP(*parts, activation)  # type: ignore[arg-type]
    if not found:
        raise ValueError(
            f"a {type(model).__name__} has no gated feed-forward layer (gate_proj, up_proj, down_proj, an activation)"
        )
    return found


def channel_thresholds(
    up: Float[Tensor, "tokens neurons"], gate: Float[Tensor, "tokens neurons"], sparsity: float
) -> Float[Tensor, " neurons"]:
    r"""CHESS: \(t_i = \tau / m_i\), \(m_i\) the mean of \(|u_i|\), \(\tau\) a quantile of the \(m_i |g_i|\).

    A neuron whose \(m_i\) is zero adds nothing; its mean is taken as the rounding error of the largest one,
    so that its threshold stays finite.

    Raises:
        ValueError: a sparsity outside [0, 1), no tokens, or shapes that differ.

    >>> u, g = torch.tensor([[1.0, 4.0], [1.0, 4.0]]), torch.tensor([[2.0, 1.0], [3.0, 1.5]])
    >>> channel_thresholds(u, g, 0.5)
    tensor([4., 1.])
    """
    _check(up, gate, sparsity)
    mean = up.abs().mean(0)
    floor = torch.finfo(mean.dtype).eps * mean.max().clamp(min=torch.finfo(mean.dtype).tiny)
    mean = mean.clamp(min=floor)
    return _quantile(mean * gate.abs(), sparsity) / mean


def layer_threshold(
    up: Float[Tensor, "tokens neurons"], gate: Float[Tensor, "tokens neurons"], sparsity: float
) -> Float[Tensor, " neurons"]:
    r"""CATS: one threshold for all neurons of a layer, the `sparsity`-quantile of \(|g|\).

    Raises:
        ValueError: as `channel_thresholds`.
    """
    _check(up, gate, sparsity)
    return _quantile(gate.abs(), sparsity).expand(gate.shape[1]).clone()


Rule = Callable[[Tensor, Tensor, float], Tensor]


def sparsify_gates(
    model: nn.Module, texts: Sequence[Int[Tensor, " tokens"]], sparsity: float, rule: Rule, attention: float = 0.0
) -> Handle:
    """Replace every gated feed-forward layer by one that closes its small gates; calibrated on `texts`.

    Args:
        model: a causal language model; changed in place until the handle's ``undo()``.
        texts: token numbers, one text a tensor.
        sparsity: the share of gates to close, on the calibration texts.
        rule: (up, gate, sparsity) → thresholds: `channel_thresholds` or `layer_threshold`.
        attention: the share of small inputs of the query and output projections to drop; 0 leaves attention alone.

    Raises:
        ValueError: sparsity or attention outside [0, 1), no calibration text, or no gated layer.
    """
    if not 0 <= sparsity < 1 or not 0 <= attention < 1:
        raise ValueError(f"sparsity={sparsity}, attention={attention}: shares are in [0, 1)")
    if not texts or not all(len(t) for t in texts):
        raise ValueError("give at least one calibration text, none of them empty")
    mlps = gated_mlps(model)
    projections = _attention(model) if attention else {}
    names = {id(m): n for n, m in model.named_modules()}
    up_names = {n: names[id(p.up)] for n, p in mlps.items()}
    gate_names = {n: names[id(p.gate)] for n, p in mlps.items()}
    # the same seed for all: every layer keeps the same tokens, so that up and gate stay in step
    kept = {n: [Reservoir(_SAMPLE)] for n in (*up_names.values(), *gate_names.values())}
    inputs = {n: [Reservoir(_SAMPLE)] for n in projections}
    with Taps(model, kept) as outs, torch.no_grad():
        if inputs:
            with Taps(model, inputs, side="in") as ins:
                _read(model, texts)
        else:
            _read(model, texts)
    made: dict[str, nn.Module] = {}
    for name, parts in mlps.items():
        up, gate = (outs[n][0].rows.float() for n in (up_names[name], gate_names[name]))  # type: ignore[attr-defined]
        thresholds = rule(up, parts.activation(gate), sparsity) if sparsity else torch.zeros(up.shape[1])
        made[name] = SparseGatedMLP(parts.gate, parts.up, parts.down, parts.activation, thresholds)
    for name, layer in projections.items():
        rows = ins[name][0].rows.float()  # type: ignore[attr-defined]
        made[name] = ThresholdedLinear(layer, float(_quantile(rows.abs(), attention)))
    return swap(model, list(made), lambda name, layer: made[name])


def chess(model: nn.Module, texts: Sequence[Int[Tensor, " tokens"]], sparsity: float, attention: float = 0.0) -> Handle:
    """Channel-wise thresholds on the gates of every feed-forward layer; see `sparsify_gates`."""
    return sparsify_gates(model, texts, sparsity, channel_thresholds, attention)


def cats(model: nn.Module, texts: Sequence[Int[Tensor, " tokens"]], sparsity: float) -> Handle:
    """One threshold a layer on the gates of every feed-forward layer; see `sparsify_gates`."""
    return sparsify_gates(model, texts, sparsity, layer_threshold)


def _read(model: nn.Module, texts: Sequence[Tensor]) -> None:
    for text in texts:
        for piece in text.split(512):
            model(piece.unsqueeze(0))


def _attention(model: nn.Module) -> dict[str, nn.Linear]:
    found = {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and n.rpartition(".")[2] in ("q_proj", "o_proj")
    }
    if not found:
        raise ValueError("attention= needs query and output projections named q_proj and o_proj; none is found")
    return found


def _check(up: Tensor, gate: Tensor, sparsity: float) -> None:
    if up.shape != gate.shape or up.ndim != 2 or not len(up):
        raise ValueError(f"up and gate are (tokens, neurons) of one text; got {tuple(up.shape)}, {tuple(gate.shape)}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity} is not in [0, 1)")


def _quantile(x: Tensor, share: float) -> Tensor:
    """The value under which the fraction `share` of all entries lies (torch's own stops at 16 million)."""
    flat = x.flatten()
    below = round(share * flat.numel())
    if below == 0:
        return flat.new_zeros(())
    return flat.kthvalue(min(below + 1, flat.numel())).values
