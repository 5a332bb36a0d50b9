"""Names that a person types: ``-`` and ``_`` alike, and a near miss gets a suggestion."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from gramian.atlas.errors import UserError


def fold(name: str) -> str:
    """The form in which names are compared: ``S4-D`` and ``s4_d`` are one."""
    return name.strip().lower().replace("-", "_")


def resolve(name: str, known: Iterable[str], what: str, listed_by: str) -> str:
    """The entry of `known` that `name` means.

    Args:
        what: what is being named, such as ``"paper"``.
        listed_by: the command that lists them all.

    Raises:
        UserError: no such name; the message suggests the nearest.
    """
    by_fold = {fold(k): k for k in known}
    if fold(name) in by_fold:
        return by_fold[fold(name)]
    near = difflib.get_close_matches(fold(name), by_fold, n=3, cutoff=0.5)
    near += [k for k in by_fold if fold(name) in k and k not in near][: 3 - len(near)]
    hint = f"did you mean {' or '.join(by_fold[n] for n in near)}? " if near else ""
    raise UserError(f"no {what} is named {name!r}: {hint}`{listed_by}` lists them all")
