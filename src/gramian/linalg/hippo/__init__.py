"""HiPPO: state matrices that remember the past as coefficients of orthogonal functions.

`transition` gives the dense matrices, `basis` and `weight` the functions they project on, the
`*_diagonal` functions the diagonal forms that deep state space models start from, and
`perturb_diagonalize` a diagonalization that survives floating point.
"""

from gramian.linalg.hippo.diagonal import (
    DIAGONAL_INITS,
    conjugate_half,
    diagonal_init,
    inverse_diagonal,
    legs_diagonal,
    legs_normal_plus_low_rank,
    linear_diagonal,
    real_diagonal,
)
from gramian.linalg.hippo.measures import MEASURES, basis, transition, weight
from gramian.linalg.hippo.perturb import Diagonalization, condition_number, diagonalize, perturb_diagonalize
from gramian.linalg.hippo.projection import (
    check_orthogonality,
    follow,
    gram,
    legs_history,
    quadrature,
    reconstruct,
)
from gramian.linalg.hippo.transfer import transfer

__all__ = [
    "DIAGONAL_INITS",
    "MEASURES",
    "Diagonalization",
    "basis",
    "check_orthogonality",
    "condition_number",
    "conjugate_half",
    "diagonal_init",
    "diagonalize",
    "follow",
    "gram",
    "inverse_diagonal",
    "legs_diagonal",
    "legs_history",
    "legs_normal_plus_low_rank",
    "linear_diagonal",
    "perturb_diagonalize",
    "quadrature",
    "real_diagonal",
    "reconstruct",
    "transfer",
    "transition",
    "weight",
]
