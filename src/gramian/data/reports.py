"""Radiology reports of the user's own: a table with a column of findings and one of impressions."""

from __future__ import annotations

from pathlib import Path

__all__ = ["read_reports"]


def read_reports(
    path: str | Path, *, findings: str = "findings", impression: str = "impression", skip_empty: bool = False
) -> list[tuple[str, str]]:
    """Pairs (findings, impression) of a CSV file, as Open-I's and MIMIC-CXR's reports are exported.

    Args:
        path: a CSV file in UTF-8 with a header.
        findings, impression: the columns' names; case does not matter.
        skip_empty: leave out reports that lack either; by default they are refused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is not there, no report is left, or a report lacks its findings or its impression.
    """
    import pandas

    table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    names = {str(column).strip().lower(): column for column in table.columns}
    for wanted in (findings, impression):
        if wanted.lower() not in names:
            raise ValueError(f"{path} has no column {wanted!r}; its columns are {', '.join(map(str, table.columns))}")
    kept = []
    left, right = table[names[findings.lower()]], table[names[impression.lower()]]
    for number, (text, summary) in enumerate(zip(left, right, strict=True), 1):
        pair = " ".join(str(text).split()), " ".join(str(summary).split())
        if all(pair):
            kept.append(pair)
        elif not skip_empty:
            missing = findings if not pair[0] else impression
            raise ValueError(f"{path}: report {number} has an empty {missing!r}; pass skip_empty=True to leave it out")
    if not kept:
        raise ValueError(f"{path} holds no report with both {findings!r} and {impression!r}")
    return kept
