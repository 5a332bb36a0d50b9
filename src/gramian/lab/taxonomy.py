"""A survey's taxonomy: nested names whose leaves open working implementations, or say that there is none yet.

A paper's file holds it as a literal, ``TAXONOMY = {"branch": {"leaf": "package.module.Name(8, option='x')"}}``; a leaf
is the call that makes the implementation, or None where there is none. The atlas draws it without running anything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

__all__ = ["check_taxonomy", "draw_taxonomy", "leaves", "open_leaf"]

Taxonomy = Mapping[str, Any]


def leaves(taxonomy: Taxonomy) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Every leaf with the names that lead to it, in order.

    >>> list(leaves({"fruit": {"apple": "a.b.Apple()", "pear": None}}))
    [(('fruit', 'apple'), 'a.b.Apple()'), (('fruit', 'pear'), None)]
    """
    for name, value in taxonomy.items():
        if isinstance(value, Mapping):
            for path, leaf in leaves(value):
                yield (name, *path), leaf
        else:
            yield (name,), value


def check_taxonomy(taxonomy: Taxonomy, at: str = "the taxonomy") -> None:
    """Raise ValueError for a branch without a leaf, or a leaf that is neither a call nor None."""
    if not taxonomy:
        raise ValueError(f"{at} is empty: a branch holds at least one leaf")
    for name, value in taxonomy.items():
        if isinstance(value, Mapping):
            check_taxonomy(value, f"branch {name!r}")
        elif value is not None:
            _call(value)


def open_leaf(taxonomy: Taxonomy, *path: str, **changes: Any) -> Any:
    """Make what a leaf names.

    Args:
        path: names from the root to the leaf.
        changes: arguments by name, over those that stand in the leaf.

    Raises:
        ValueError: no such leaf (the message lists those of the branch), or one that has no implementation yet.
    """
    here: Any = taxonomy
    for depth, name in enumerate(path):
        if not isinstance(here, Mapping) or name not in here:
            names = ", ".join(here) if isinstance(here, Mapping) else "none: it is a leaf"
            raise ValueError(f"{name!r} is not in {' / '.join(path[:depth]) or 'the taxonomy'}; there is {names}")
        here = here[name]
    if isinstance(here, Mapping):
        raise ValueError(f"{' / '.join(path)} is a branch; its leaves are {', '.join(here)}")
    if here is None:
        raise ValueError(f"{' / '.join(path)} has no implementation here yet")
    dotted, arguments, named = _call(here)
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)(*arguments, **(named | changes))


def _call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name, arguments and named arguments of a call of literals."""
    try:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return ast.unparse(call.func), [ast.literal_eval(a) for a in call.args], named
    except (AssertionError, SyntaxError, ValueError):
        raise ValueError(f"{text!r} is not a call with literal arguments, such as 'package.module.Name(8)'") from None


def draw_taxonomy(taxonomy: Taxonomy) -> Any:
    """A matplotlib figure: the tree from left to right, leaves that work as full dots."""
    from matplotlib import pyplot

    rows = list(leaves(taxonomy))
    depth = max(len(path) for path, _ in rows)
    figure, axes = pyplot.subplots(figsize=(2.6 * depth + 1.5, 0.2 * len(rows) + 0.6), layout="constrained")
    heights: dict[tuple[str, ...], list[int]] = {}
    for row, (path, _) in enumerate(rows):
        for length in range(len(path) + 1):
            heights.setdefault(path[:length], []).append(-row)
    middle = {path: sum(places) / len(places) for path, places in heights.items()}
    made = dict(rows)
    for path, height in middle.items():
        x = len(path)
        if path:
            axes.plot([x - 1, x], [middle[path[:-1]], height], color="C7", lw=0.6, alpha=0.5, zorder=0)
            leaf = path in made
            works = leaf and made[path] is not None
            if leaf:
                axes.plot(x, height, "o", ms=5, color="C0", mfc="C0" if works else "none")
            axes.annotate(
                path[-1], (x, height), (6 if leaf else 0, 0 if leaf else 3), textcoords="offset points",
                va="center" if leaf else "bottom", ha="left" if leaf else "center", fontsize=7,
                alpha=1.0 if works or not leaf else 0.55,
            )  # fmt: skip
    axes.set(xlim=(-0.1, depth + 1.1), ylim=(-len(rows), 1))
    axes.axis("off")
    return figure
