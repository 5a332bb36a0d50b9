"""Chest X-ray reports from a grammar: findings, and the impression that sums up what is abnormal in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["NOTHING", "Report", "findings_and_impressions"]

NOTHING = "No acute cardiopulmonary abnormality."
"""The impression of a report in which nothing is abnormal."""

CONDITIONS = (
    "pleural effusion", "pneumothorax", "lower lobe consolidation", "basilar atelectasis", "upper lobe nodule",
    "apical scarring", "hilar mass", "rib fracture", "interstitial edema", "perihilar opacity", "diaphragm elevation",
    "lung hyperinflation",
)  # fmt: skip
SEVERITIES = ("tiny", "small", "moderate", "large")
SIDES = ("left", "right", "bilateral")
TRENDS = ("unchanged", "improved", "worse", "new")
_SAID = (
    "There is a {severity} {side} {condition}.",
    "A {severity} {condition} is present, {side} in location.",
    "Again noted is {side} {condition} of {severity} size.",
)
_COMPARED = (
    "The {severity} {side} {condition} is {trend} since the prior exam.",
    "Compared with the prior study this {severity} {side} {condition} appears {trend}.",
)
_NORMAL = (
    "The heart is normal in size.", "The mediastinal contours are within normal limits.",
    "The pulmonary vasculature is unremarkable.", "The osseous structures are intact.",
    "The visualized upper abdomen is normal.", "No free air is seen below the diaphragm.",
    "The trachea is midline.", "The aorta is tortuous with calcified walls.", "A feeding tube ends in the stomach.",
    "The central line tip projects over the vena cava.", "Sternal wires are aligned and intact.",
    "The soft tissues are unremarkable.",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """One report.

    Attributes:
        findings: what is seen, sentence by sentence.
        impression: what of it matters.
        abnormal: places of the sentences of `findings` that tell of something abnormal.
    """

    findings: str
    impression: str
    abnormal: tuple[int, ...]


def findings_and_impressions(
    count: int, generator: torch.Generator | None = None, *, most: int = 2, normal: tuple[int, int] = (2, 4)
) -> list[Report]:
    """Reports of 0 to `most` abnormalities, each told in two sentences, among sentences of what is normal.

    One sentence tells severity, side and condition, the other one repeats them and compares with the prior exam. The
    impression names them in the order of their first mention: "Moderate left pleural effusion, worse."

    Args:
        count: how many reports.
        generator: where all choices come from; equal generators give equal reports.
        most: largest number of abnormalities in a report; all numbers from 0 on are equally likely.
        normal: fewest and most sentences of what is normal.

    Raises:
        ValueError: a count below 1, more abnormalities than conditions, or an impossible number of normal sentences.

    >>> report = findings_and_impressions(1, torch.Generator().manual_seed(3))[0]
    >>> report.impression
    'Tiny bilateral apical scarring, improved. Moderate left diaphragm elevation, new.'
    """
    low, high = normal
    if count < 1 or not 0 <= most <= len(CONDITIONS) or not 1 <= low <= high <= len(_NORMAL):
        raise ValueError(
            f"count={count} ≥ 1, 0 ≤ most={most} ≤ {len(CONDITIONS)}, 1 ≤ normal={normal} ≤ {len(_NORMAL)} are needed"
        )

    def pick(number: int) -> int:
        return int(torch.randint(number, (), generator=generator))

    def some(pool: tuple[str, ...], number: int) -> list[str]:
        return [pool[i] for i in torch.randperm(len(pool), generator=generator)[:number].tolist()]

    found = []
    for _ in range(count):
        pairs: list[tuple[str, int]] = [(s, -1) for s in some(_NORMAL, low + pick(high - low + 1))]
        summaries = []
        for index, condition in enumerate(some(CONDITIONS, pick(most + 1))):
            word = {
                "condition": condition, "severity": SEVERITIES[pick(4)], "side": SIDES[pick(3)],
                "trend": TRENDS[pick(4)],
            }  # fmt: skip
            pairs += [(_SAID[pick(3)].format(**word), index), (_COMPARED[pick(2)].format(**word), index)]
            summaries.append("{severity} {side} {condition}, {trend}.".format(**word).capitalize())
        order = torch.randperm(len(pairs), generator=generator).tolist()
        mentioned = list(dict.fromkeys(pairs[i][1] for i in order if pairs[i][1] >= 0))
        found.append(
            Report(
                " ".join(pairs[i][0] for i in order),
                " ".join(summaries[i] for i in mentioned) or NOTHING,
                tuple(place for place, i in enumerate(order) if pairs[i][1] >= 0),
            )
        )
    return found
