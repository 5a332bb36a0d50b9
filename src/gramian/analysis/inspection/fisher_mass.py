"""Which matrices a model's loss feels: each one's share of the trace of the Fisher matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gramian.analysis.fisher.accumulator import FisherAccumulator
from gramian.analysis.fisher.likelihood import IGNORED
from gramian.analysis.inspection.matrices import weight_matrices
from gramian.lab import progress_bar
from gramian.models.example_inputs import Inputs
from gramian.models.opening import Opened

_SAMPLE = 64  # tokens of a text that count as one sample
_BATCH = 8


def fisher_mass(
    opened: Opened, inputs: Inputs, *, tokens: int = 2048, show_progress: bool | None = None
) -> dict[str, float]:
    r"""The share of each weight matrix in \(\mathrm{tr} F = E \|\nabla \log p(y|x)\|^2\).

    A language model's samples are pieces of 64 tokens with the tokens that follow (the empirical Fisher); a
    classifier's are its pictures, with labels drawn from its own prediction under a fixed seed.

    Args:
        inputs: as `example_inputs` gives them.
        tokens: how many tokens of a text to use at most.

    Raises:
        ValueError: a model that is neither, or inputs without a piece of 64 tokens.
    """
    model = opened.model
    names = [name for name, _ in weight_matrices(model)]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        source = "empirical" if opened.reads == "text" else "mc"
        fisher = FisherAccumulator(
            model, source=source, params=tuple(names), generator=torch.Generator().manual_seed(0)
        )
        for batch, targets in progress_bar(_batches(opened, inputs, tokens), "Fisher mass", show=show_progress):
            fisher.update(batch, targets)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    traces = {name: float(value.detach().sum(dtype=torch.float64)) for name, value in fisher.sums.items()}
    whole = sum(traces.values())
    return {name: trace / whole for name, trace in traces.items()} if whole > 0 else traces


def _batches(opened: Opened, inputs: Inputs, tokens: int) -> list[tuple[Tensor, Tensor | None]]:
    if opened.reads == "images":
        return [(x, None) for batch in inputs.batches for x in batch["x"].split(_BATCH)]
    if opened.reads != "text":
        raise ValueError(f"{opened.name} has no loss of its own: its Fisher matrix needs a task")
    ids = torch.cat([batch["input_ids"][0] for batch in inputs.batches])[:tokens]
    if len(ids) < _SAMPLE:
        raise ValueError(f"the text has {len(ids)} tokens; the Fisher mass needs a piece of {_SAMPLE}")
    pieces = ids[: len(ids) // _SAMPLE * _SAMPLE].view(-1, _SAMPLE)
    following = nn.functional.pad(pieces[:, 1:], (0, 1), value=IGNORED)
    return list(zip(pieces.split(_BATCH), following.split(_BATCH), strict=True))
