"""Functions of a matrix's spectrum."""

from gramian.linalg.spectral.spectra import (
    center_and_normalize,
    effective_rank,
    matrix_entropy,
    nuclear_norm,
)

__all__ = ["center_and_normalize", "effective_rank", "matrix_entropy", "nuclear_norm"]
