"""The matrix nuclear norm by column norms, against the exact norm and the matrix entropy."""

import torch

from gramian.atlas.bench import Benchmark, Contender
from gramian.linalg.spectral import spectra


def features(rows, columns):
    """States as the score sees them: centred, rows of length one."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    return spectra.center_and_normalize(x)


def column_norms(**size):
    x = features(**size)
    return lambda: spectra.nuclear_norm(x, "l12")


def exact(**size):
    x = features(**size)
    return lambda: spectra.nuclear_norm(x, "svd")


def entropy(**size):
    x = features(**size)
    return lambda: spectra.matrix_entropy(x)


BENCHMARK = Benchmark(
    title="Matrix nuclear norm of 2048 × 2048 states, float32",
    contenders=(
        Contender("column norms", column_norms),
        Contender("exact nuclear norm", exact, rounds=3),
        Contender("matrix entropy", entropy, rounds=3),
    ),
    sizes={"full": {"rows": 2048, "columns": 2048}, "tiny": {"rows": 16, "columns": 8}},
    rounds=7,
    notes=("The paper reports 8 to 24 times over the matrix entropy, at the sizes of its models.",),
)
