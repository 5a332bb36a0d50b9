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


def write_inspection(found: Inspection, folder: Path) -> Path:
    """Draw the figures and write ``report.html`` into `folder`; returns its path."""
    drawn = []
    with figures.style():
        for name, caption, figure in (
            ("model", _caption(found), draw_model(found)),
            ("spectra", "Singular values of every matrix, over the largest of their matrix, by kind; light is the "
             "first block, dark the last. A line that falls early is a matrix of low rank.", draw_spectra(found)),
        ):  # fmt: skip
            figures.save(figure, folder / "figures", name, salt=f"inspect-{name}")
            drawn.append((Markup((folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")), caption))
    page = (
        environment()
        .get_template("inspection.html")
        .render(title=f"Inside {found.name}", found=found, drawn=drawn, columns=COLUMNS, rows=table(found))
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
