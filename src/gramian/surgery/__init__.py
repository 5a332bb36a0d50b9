"""Changes a trained network."""

from gramian.surgery import householder_projector, swap

__all__ = ["householder_projector", "swap"]
