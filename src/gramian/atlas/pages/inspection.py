"""The report of one model's matrices: one picture of the whole model, its spectra, and a table under them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gramian.atlas.pages.report import environment
from gramian.lab import figures

if TYPE_CHECKING:
    import numpy
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gramian.analysis.inspection.report import Inspection

COLUMNS = {
    "matrix": "",
    "shape": "",
    "stable rank": "‖W‖²/σ₁²: how many directions carry the norm",
    "effective rank": "exponential of the singular values' entropy",
    "tail": "exponent of a power law fitted to the largest eigenvalues of WᵀW; 2 to 4 is heavy-tailed",
    "spikes": "singular values above what random entries of the same size would give",
    "largest": "the largest entry over the root mean square",
    "rank at 1%": "smallest rank with a relative Frobenius error of 1%",
    "rank at 5%": "the same for 5%",
    "pays under": "two factors are smaller than the matrix below this rank",
    "quiet inputs": "share of inputs at most a tenth of their sample's root mean square",
    "outlier inputs": "features over six times the median size",
    "Fisher mass": "this matrix' share of the trace of the Fisher matrix",
}


STATE_COLUMNS = {
    "block": "",
    "samples": "positions (of texts without the first four) or places of pictures",
    "width": "",
    "effective rank": "exponential of the entropy of the covariance's eigenvalues",
    "top direction": "share of the variance in the first principal component",
    "dimension": "intrinsic dimension by the two nearest neighbours",
    "linearity": "share of the output's variance that an affine function of the block's input explains",
    "without first": "the same without the first four positions of each text",
    "of what it adds": "the same for output minus input",
    "NC1": "variance within classes over that between them, features averaged over places; 0 is collapse",
}


def write_inspection(found: Inspection, folder: Path) -> Path:
    """Draw the figures and write ``report.html`` into `folder`; returns its path."""
    drawn = []
    with figures.style():
        wanted = [
            ("model", _caption(found), draw_model(found)),
            ("spectra", "Singular values of every matrix, over the largest of their matrix, by kind; light is the "
             "first block, dark the last. A line that falls early is a matrix of low rank.", draw_spectra(found)),
        ]  # fmt: skip
        if found.states:
            wanted.insert(1, ("states", _states_caption(found), draw_states(found)))
        for name, caption, figure in wanted:
            figures.save(figure, folder / "figures", name, salt=f"inspect-{name}")
            drawn.append((Markup((folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")), caption))
    page = (
        environment()
        .get_template("inspection.html")
        .render(
            title=f"Inside {found.name}",
            found=found,
            drawn=drawn,
            columns=COLUMNS,
            rows=table(found),
            state_columns=_state_columns(found),
            state_rows=state_table(found),
        )
    )
    path = folder / "report.html"
    part = path.with_name(".report.html.part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
    return path


def table(found: Inspection) -> list[list[Any]]:
    """The report's table: a row a matrix, in the model's order."""
    flows = {f.name: f for f in found.flows}
    rows = []
    for m in found.matrices:
        flow = flows.get(m.name.removesuffix(".weight"))
        rows.append(
            [
                m.name, f"{m.rows} × {m.columns}", m.stable_rank, m.effective_rank,
                None if math.isnan(m.tail_exponent) else m.tail_exponent, m.spikes, m.largest,
                m.rank_at[0.01], m.rank_at[0.05], m.break_even,
                flow.quiet if flow else None, flow.outlier_features if flow else None, found.fisher.get(m.name),
            ]
        )  # fmt: skip
    return rows


def state_table(found: Inspection) -> list[list[Any]]:
    """A row a block: what it hands on. Columns that nobody knows are left out."""
    rows = [
        [
            s.name, s.samples, s.width, s.effective_rank, s.top_share, s.dimension, s.linearity, s.linearity_inside,
            s.linearity_added, s.within_over_between,
        ]
        for s in found.states
    ]  # fmt: skip
    known = [i for i in range(len(STATE_COLUMNS)) if any(row[i] is not None for row in rows)]
    return [[row[i] for i in known] for row in rows]


def _state_columns(found: Inspection) -> dict[str, str]:
    fields = ("linearity", "linearity_inside", "linearity_added", "within_over_between")
    names = list(STATE_COLUMNS)
    missing = {n for n, f in zip(names[-4:], fields) if all(getattr(s, f) is None for s in found.states)}
    if all(s.dimension is None for s in found.states):
        missing.add("dimension")
    return {n: meaning for n, meaning in STATE_COLUMNS.items() if n not in missing}


def _states_caption(found: Inspection) -> str:
    parts = ["What each block hands on."]
    if found.states[0].linearity is not None:
        parts.append(
            "Linearity is the share of a block's output that an affine function of its input explains. Huge states "
            "at the start of a text carry nearly all variance and look linear; what blocks add elsewhere is less so."
        )
    if found.states[-1].within_over_between is not None:
        parts.append("NC1 is the variance within classes over that between them.")
    return " ".join(parts)


def draw_states(found: Inspection) -> Figure:
    """Lines along the depth: how many directions, how linear, how collapsed."""
    from matplotlib import pyplot

    states = found.states
    panels: list[tuple[str, dict[str, list[float | None]]]] = [
        (
            "directions",
            {
                "effective rank": [s.effective_rank for s in states],
                "intrinsic dimension": [s.dimension for s in states],
                "width": [float(s.width) for s in states],
            },
        ),
        ("share of the variance in one direction", {"": [s.top_share for s in states]}),
    ]
    if states[0].linearity is not None:
        lines = {
            "all positions": [s.linearity for s in states],
            "without the first four": [s.linearity_inside for s in states],
            "of what the block adds": [s.linearity_added for s in states],
        }
        panels.append(("linearity of the block", lines))
    if states[-1].within_over_between is not None:
        panels.append(("NC1", {"": [s.within_over_between for s in states]}))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.6 * len(panels), 2.9), squeeze=False)
    for ax, (title, curves) in zip(axes.flat, panels):
        for label, values in curves.items():
            if any(v is not None for v in values):
                drawn = [math.nan if v is None else v for v in values]
                ax.plot([s.depth for s in states], drawn, "o-", ms=3, label=label or None)
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xlabel("block")
        if title in ("directions", "NC1"):
            ax.set_yscale("log")
        elif title.startswith("share"):
            ax.set_ylim(0, 1.05)
        if title.startswith("linearity"):  # room for the legend under the lines
            low = min(v for values in curves.values() for v in values if v is not None)
            ax.set_ylim(low - 0.6 * (1 - low), 1 + 0.05 * (1 - low))
        if len(curves) > 1:
            ax.legend(fontsize=8, loc="lower left" if title.startswith("linearity") else "best")
    return figure


def _caption(found: Inspection) -> str:
    parts = [
        "The whole model: a row a kind of matrix, a column a block (– for matrices outside the blocks).",
        "Effective rank is over the full rank; ‘rank at 5%’ is over the rank at which two factors would "
        "hold as many numbers, so below 1 a plain factorization saves something.",
    ]
    if found.flows:
        parts.append("Quiet inputs are entries at most a tenth of their sample's root mean square.")
    if found.fisher:
        parts.append("Fisher mass is each matrix' share of the trace, on a logarithmic scale.")
    return " ".join(parts)


def draw_model(found: Inspection) -> Figure:
    """One heat map a measure: kinds of matrices down, blocks across."""
    from matplotlib import pyplot

    flows = {f.name: f for f in found.flows}
    panels: list[tuple[str, dict[str, float], dict[str, Any]]] = [
        ("effective rank", {m.name: m.effective_rank / m.full_rank for m in found.matrices}, {"vmin": 0, "vmax": 1}),
        (
            "rank at 5% error, over break-even",
            {m.name: m.rank_at[0.05] / max(1, m.break_even) for m in found.matrices},
            {"vmin": 0.5, "vmax": 1.5, "cmap": "PuOr_r"},
        ),
    ]
    if found.flows:
        quiet = {m.name: flows[n].quiet for m in found.matrices if (n := m.name.removesuffix(".weight")) in flows}
        panels.append(("quiet inputs", quiet, {"vmin": 0, "vmax": max(0.3, *quiet.values())}))
    if found.fisher:
        mass = {n: math.log10(v) for n, v in found.fisher.items() if v > 0}
        panels.append(("Fisher mass, log₁₀", mass, {"cmap": "magma"}))
    kinds = list(dict.fromkeys(m.kind for m in found.matrices))
    depths = sorted({m.depth for m in found.matrices}, key=lambda d: -1 if d is None else d)
    wide = max(6.4, min(13.0, 2.5 + 0.22 * len(depths)))
    columns = 2 if wide < 9 and len(kinds) <= 12 else 1
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(wide * (1.5 if columns == 2 else 1), lines * (1.1 + 0.24 * len(kinds))), squeeze=False
    )
    for ax, (title, values, look) in zip(axes.flat, panels):
        _heat(ax, found, values, kinds, depths, title, look)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    return figure


def _heat(
    ax: Axes,
    found: Inspection,
    values: dict[str, float],
    kinds: list[str],
    depths: list[int | None],
    title: str,
    look: dict[str, Any],
) -> None:
    import numpy

    grid: numpy.ndarray = numpy.full((len(kinds), len(depths)), numpy.nan)
    for m in found.matrices:
        if m.name in values:
            grid[kinds.index(m.kind), depths.index(m.depth)] = values[m.name]
    image = ax.imshow(grid, aspect="auto", interpolation="nearest", **look)
    step = max(1, len(depths) // 15)
    ax.set_xticks(range(0, len(depths), step), ["–" if d is None else str(d) for d in depths[::step]])
    ax.set_yticks(range(len(kinds)), kinds, fontsize=8)
    ax.set_title(title, fontsize=10, loc="left")
    ax.grid(visible=False)
    ax.figure.colorbar(image, ax=ax, pad=0.01, shrink=0.9)


def draw_spectra(found: Inspection) -> Figure:
    """Singular values by kind, one line a block."""
    import numpy
    from matplotlib import pyplot

    groups: dict[str, list[Any]] = {}
    for m in found.matrices:
        groups.setdefault(m.kind, []).append(m)
    chosen = sorted(groups, key=lambda k: -sum(m.rows * m.columns for m in groups[k]))[:12]
    columns = min(4, len(chosen))
    lines = -(-len(chosen) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(2.7 * columns + 0.6, 2.1 * lines + 0.3), squeeze=False, sharex=True, sharey=True
    )
    shade: Callable[[float], Any] = pyplot.get_cmap("viridis_r")
    for ax, kind in zip(axes.flat, chosen):
        members = sorted(groups[kind], key=lambda m: -1 if m.depth is None else m.depth)
        for i, m in enumerate(members):
            sigma = m.singular_values.numpy()
            if sigma[0] > 0:
                colour = shade(0.1 + 0.85 * i / max(1, len(members) - 1))
                ax.plot(numpy.arange(len(sigma)) / len(sigma), sigma / sigma[0], lw=1, color=colour)
        ax.set_yscale("log")
        ax.set_ylim(1e-3, 1.3)
        ax.set_title(kind, fontsize=9, loc="left")
    for ax in axes.flat[len(chosen) :]:
        ax.set_visible(False)
    figure.supxlabel("index, over the full rank", fontsize=9)
    figure.supylabel("singular value, over the largest", fontsize=9)
    return figure
