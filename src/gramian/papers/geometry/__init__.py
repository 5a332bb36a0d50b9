"""Geometry: manifolds, orthogonal matrices and vector symbols."""
