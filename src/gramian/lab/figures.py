"""Figures that are legible on a light and on a dark page: text and axes take the page's own colour."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#0a0b0c"
"""The colour that text and axes are drawn in; in the SVG it becomes ``currentColor``."""

CYCLE = ("#2f7ed8", "#e8743b", "#2ca58d", "#a05195", "#d9a404", "#d1495b", "#6c8ead", "#8a6d3b")


def style() -> AbstractContextManager[None]:
    """Matplotlib settings of every figure in a report, as a context manager."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib import pyplot
    from matplotlib.rcsetup import cycler

    settings: dict[str, Any] = {
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "axes.titlecolor": INK,
        "xtick.color": INK, "ytick.color": INK, "legend.labelcolor": INK,
        "axes.prop_cycle": cycler(color=CYCLE), "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False,
        "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True, "font.size": 10,
        "svg.fonttype": "none", "image.cmap": "viridis",
    }  # fmt: skip
    return pyplot.rc_context(settings)


def to_svg(figure: Figure, salt: str) -> str:
    """The figure as inline SVG; `salt` keeps the identifiers of two figures on one page apart."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(re.escape(INK), "currentColor", svg, flags=re.IGNORECASE)
    return re.sub(r"font: (\d+(?:\.\d+)?px)[^;\"]*", r"font: \1 system-ui, sans-serif", svg)


def save(figure: Figure, folder: Path, name: str, salt: str) -> None:
    """Write ``name.svg`` and ``name.png`` (on white, for where no SVG is shown) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.svg").write_text(to_svg(figure, salt), encoding="utf-8")
    figure.savefig(folder / f"{name}.png", dpi=144, facecolor="white")
