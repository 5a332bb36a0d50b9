"""Transforms of signals."""

from gramian.linalg.signal import hadamard

__all__ = ["hadamard"]
