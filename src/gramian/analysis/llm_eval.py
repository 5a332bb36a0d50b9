"""Score a language model by the spectrum of its hidden states, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.linalg.spectral import spectra


@dataclass(frozen=True)
class TextScores:
    r"""Scores of one text, per layer.

    Attributes:
        svd: the exact nuclear norm of the centred, row-normalized states over their number of tokens.
        l12: the same by the column norms.
        entropy: the matrix entropy.
    """

    svd: Float[Tensor, " layers"]
    l12: Float[Tensor, " layers"]
    entropy: Float[Tensor, " layers"]


def hidden_states(
    model: nn.Module, ids: Int[Tensor, " tokens"], layers: Sequence[int] | None = None
) -> list[Float[Tensor, "tokens width"]]:
    """The hidden states of a transformers model for one text: one matrix a layer, the embedding first.

    Raises:
        ValueError: fewer than two tokens, or a layer that the model does not have.
    """
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(f"a text has at least two tokens, got shape {tuple(ids.shape)}")
    with torch.no_grad():
        states = model(input_ids=ids.unsqueeze(0), output_hidden_states=True).hidden_states
    chosen = range(len(states)) if layers is None else layers
    for layer in chosen:
        if not -len(states) <= layer < len(states):
            raise ValueError(f"layer {layer} is not among the {len(states)} hidden states")
    return [states[layer][0].float() for layer in chosen]


def score_text(model: nn.Module, ids: Int[Tensor, " tokens"], layers: Sequence[int] = (-1,)) -> TextScores:
    r"""The matrix nuclear norm of a text's hidden states, exact and by column norms, and their matrix entropy.

    With \(X\) the states centred and with rows of length one, and \(L\) tokens: \(\|X\|_* / L\). A model that
    keeps the tokens of a rich text apart scores high; repetition collapses the spectrum.

    Raises:
        ValueError: fewer than two tokens, or states that are all equal.

    Source: Li et al., Large Language Model Evaluation via Matrix Nuclear-Norm (2024), section 3.
    """
    rows = [spectra.center_and_normalize(x) for x in hidden_states(model, ids, layers)]
    count = len(ids)
    return TextScores(
        svd=torch.stack([spectra.nuclear_norm(x, "svd") / count for x in rows]),
        l12=torch.stack([spectra.nuclear_norm(x, "l12") / count for x in rows]),
        entropy=torch.stack([spectra.matrix_entropy(x) for x in rows]),
    )


def mnn_score(model: nn.Module, texts: Sequence[Int[Tensor, " tokens"]], layer: int = -1, method: str = "l12") -> float:
    """The matrix nuclear norm of a model: the mean of its texts' scores (higher keeps more apart).

    Args:
        model: a transformers model.
        texts: token numbers, one text a tensor.
        layer: which hidden state.
        method: ``"l12"`` (fast) or ``"svd"`` (exact).

    Raises:
        ValueError: no texts, or what `score_text` raises.
    """
    if not texts:
        raise ValueError("give at least one text")
    if method not in ("l12", "svd"):
        raise ValueError(f"method={method!r} is not 'l12' or 'svd'")
    scores = []
    for ids in texts:
        x = spectra.center_and_normalize(hidden_states(model, ids, (layer,))[0])
        scores.append(float(spectra.nuclear_norm(x, method)) / len(ids))  # type: ignore[arg-type]
    return sum(scores) / len(scores)
