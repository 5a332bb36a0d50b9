"""Curvature: Fisher and Hessian matrices of a loss."""
