"""Seeding: every random number of a run comes from its one seed."""

from __future__ import annotations

import random


def seed_everything(seed: int) -> None:
    """Seed Python, numpy's legacy generator and torch (all devices).

    Library code takes a ``generator`` instead; this is for the third-party code that an experiment calls.
    """
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
