"""Matrix manifolds: positive definite matrices, orthogonal matrices, and frames of unit vectors."""

from gramian.linalg.manifold import frames, orthogonal, spd, spd_functions

__all__ = ["frames", "orthogonal", "spd", "spd_functions"]
