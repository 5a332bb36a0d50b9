"""Recurrences: every scan, its one-step form and its oracle."""

from gramian.linalg.scan.diagonal import diagonal_scan, diagonal_step
from gramian.linalg.scan.householder import householder_scan, householder_scan_reference, householder_step
from gramian.linalg.scan.lti import (
    discretize_diagonal,
    fft_convolution,
    lti_kernel_diagonal,
    lti_last_state,
    lti_state_response,
    lti_step,
)
from gramian.linalg.scan.selective import selective_scan, selective_scan_reference, selective_scan_step

__all__ = [
    "diagonal_scan",
    "diagonal_step",
    "discretize_diagonal",
    "fft_convolution",
    "householder_scan",
    "householder_scan_reference",
    "householder_step",
    "lti_kernel_diagonal",
    "lti_last_state",
    "lti_state_response",
    "lti_step",
    "selective_scan",
    "selective_scan_reference",
    "selective_scan_step",
]
