"""Recurrences: every scan, its one-step form and its oracle."""

from gramian.linalg.scan.bidirectional import bidirectional_scan
from gramian.linalg.scan.companion import companion_kernel, companion_step
from gramian.linalg.scan.dense import dense_scan, dense_step, factored_scan, factored_step
from gramian.linalg.scan.diagonal import diagonal_scan, diagonal_step
from gramian.linalg.scan.dplr import (
    cauchy_sums,
    discretize_low_rank,
    fold_output,
    low_rank_last_state,
    low_rank_state_response,
    low_rank_step,
    lti_kernel_dplr,
    unfold_output,
)
from gramian.linalg.scan.grid.two_state import grid_scan, grid_step
from gramian.linalg.scan.householder import householder_scan, householder_scan_reference, householder_step
from gramian.linalg.scan.lti import (
    discretize_diagonal,
    fft_convolution,
    lti_kernel_diagonal,
    lti_last_state,
    lti_state_response,
    lti_step,
)
from gramian.linalg.scan.matrix_state import matrix_state_scan, matrix_state_scan_reference, matrix_state_step
from gramian.linalg.scan.selective import selective_scan, selective_scan_reference, selective_scan_step

__all__ = [
    "bidirectional_scan",
    "cauchy_sums",
    "companion_kernel",
    "companion_step",
    "dense_scan",
    "dense_step",
    "diagonal_scan",
    "diagonal_step",
    "discretize_diagonal",
    "discretize_low_rank",
    "factored_scan",
    "factored_step",
    "fft_convolution",
    "fold_output",
    "grid_scan",
    "grid_step",
    "householder_scan",
    "householder_scan_reference",
    "householder_step",
    "low_rank_last_state",
    "low_rank_state_response",
    "low_rank_step",
    "lti_kernel_diagonal",
    "lti_kernel_dplr",
    "lti_last_state",
    "lti_state_response",
    "lti_step",
    "matrix_state_scan",
    "matrix_state_scan_reference",
    "matrix_state_step",
    "selective_scan",
    "selective_scan_reference",
    "selective_scan_step",
    "unfold_output",
]
