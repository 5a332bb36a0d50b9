"""All that `gramian inspect` finds out about one model, together and as JSON."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gramian.analysis.inspection.activations import Flow, inspect_activations
from gramian.analysis.inspection.fisher_mass import fisher_mass
from gramian.analysis.inspection.matrices import Matrix, inspect_matrices
from gramian.analysis.inspection.states import FIRST, State, inspect_states
from gramian.analysis.perplexity import perplexity
from gramian.models.example_inputs import Inputs
from gramian.models.opening import Opened


@dataclass
class Inspection:
    """What was found.

    Attributes:
        name: the model.
        facts: single figures, by what they are.
        findings: in plain words.
        matrices: every weight matrix.
        flows: what flows into each layer; empty without inputs.
        states: what each block hands on; empty without inputs or without a list of blocks.
        fisher: each matrix' share of the trace of the Fisher matrix; empty where it was not asked for.
        made: versions, processor, time; filled in by whoever writes it.
    """

    name: str
    facts: dict[str, Any]
    matrices: list[Matrix]
    flows: list[Flow] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    fisher: dict[str, float] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write everything but the singular values' tails as JSON; NaN becomes null."""
        matrices = []
        for m in self.matrices:
            plain = {k: v for k, v in vars(m).items() if k != "singular_values"}
            matrices.append({**plain, "singular_values": [float(f"{v:.6g}") for v in m.singular_values.tolist()]})
        record = {
            "name": self.name, "facts": self.facts, "findings": self.findings, "matrices": matrices,
            "flows": [asdict(f) for f in self.flows], "states": [asdict(s) for s in self.states],
            "fisher": self.fisher, "made": self.made,
        }  # fmt: skip
        part = path.with_name(f".{path.name}.part")
        part.write_text(json.dumps(_finite(record), indent=1, ensure_ascii=False), encoding="utf-8")
        part.replace(path)


def inspect_model(
    opened: Opened, inputs: Inputs | None = None, *, fisher: bool = True, show_progress: bool | None = None
) -> Inspection:
    """Look at every matrix of a model, and with inputs at what flows into them and which of them the loss feels.

    Args:
        inputs: batches to run the model on; None looks at the weights alone.
        fisher: also measure the Fisher mass; needs a language model or a classifier, and inputs.

    Raises:
        ValueError: a model without weight matrices.
    """
    matrices = inspect_matrices(opened.model, show_progress=show_progress)
    parameters = sum(p.numel() for p in opened.model.parameters())
    facts: dict[str, Any] = {
        "parameters": f"{parameters:,}",
        "in matrices": f"{sum(m.rows * m.columns for m in matrices) / parameters:.1%}",
        "matrices": len(matrices),
        "bytes": f"{sum(p.nbytes for p in opened.model.parameters()):,}",
    }
    found = Inspection(opened.name, facts, matrices)
    if inputs is not None:
        facts["inputs"] = inputs.note
        found.flows = inspect_activations(opened.model, inputs.batches, inputs.masks, show_progress=show_progress)
        found.states = inspect_states(
            opened.model, inputs.batches, inputs.masks, inputs.labels, show_progress=show_progress
        )
        if opened.reads == "text":
            ids = inputs.batches[0]["input_ids"][0]
            facts[f"perplexity of the first {len(ids)} tokens"] = perplexity(opened.model, ids)
        if fisher and opened.reads in ("text", "images"):
            found.fisher = fisher_mass(opened, inputs, show_progress=show_progress)
    found.findings = _findings(found)
    return found


def _findings(found: Inspection) -> list[str]:
    lines = []
    inner = [m for m in found.matrices if m.full_rank >= 16]
    if inner:
        low = min(inner, key=lambda m: m.effective_rank / m.full_rank)
        lines.append(
            f"The lowest effective rank is that of {low.name}: {low.effective_rank:.0f} of {low.full_rank} "
            f"({low.effective_rank / low.full_rank:.0%})."
        )
        whole = sum(m.rows * m.columns for m in inner)
        kept = sum(min(m.rank_at[0.05] * (m.rows + m.columns), m.rows * m.columns) for m in inner)
        paying = sum(m.rank_at[0.05] <= m.break_even for m in inner)
        lines.append(
            f"At 5% Frobenius error {paying} of {len(inner)} matrices are smaller as two factors; "
            f"together that would leave out {1 - kept / whole:.1%} of their numbers."
        )
    if found.flows:
        loud = max(found.flows, key=lambda f: f.peak)
        quiet = max(found.flows, key=lambda f: f.quiet)
        lines.append(
            f"The quietest inputs are those of {quiet.name}: {quiet.quiet:.0%} of the entries are at most a tenth of "
            f"their sample's root mean square. The largest peak flows into {loud.name}: {loud.peak:.0f} times the "
            f"root mean square."
        )
    lines += _of_states(found.states)
    if found.fisher:
        first = sorted(found.fisher.items(), key=lambda pair: -pair[1])[:3]
        shares = ", ".join(f"{name} {share:.0%}" for name, share in first)
        lines.append(f"The loss feels these matrices most (share of the Fisher's trace): {shares}.")
    return lines


def _of_states(states: list[State]) -> list[str]:
    lines = []
    if states:
        narrow = min(states, key=lambda s: s.effective_rank / s.width)
        lines.append(
            f"What {narrow.name} hands on has the lowest effective rank: {narrow.effective_rank:.0f} of {narrow.width} "
            f"({narrow.top_share:.0%} of the variance in one direction)."
        )
    known = [(s.linearity, s.linearity_inside) for s in states if s.linearity and s.linearity_inside]
    if known:
        whole, inside = (statistics.median(pair[i] for pair in known) for i in (0, 1))
        lines.append(
            f"The median block is an affine function of its input up to {1 - whole:.2%} of the variance; without the "
            f"first {FIRST} positions of each text up to {1 - inside:.2%}."
        )
    collapsed = [s for s in states if s.within_over_between is not None]
    if collapsed:
        last = collapsed[-1]
        lines.append(
            f"Variance within the classes over that between them, in {last.name}: {last.within_over_between:.2g} "
            "(0 is neural collapse)."
        )
    return lines


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
