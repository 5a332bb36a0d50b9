"""Matrices in few bits: absmax rows for int8 products, NormalFloat blocks, affine blocks."""
