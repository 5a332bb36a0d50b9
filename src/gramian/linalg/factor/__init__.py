"""Factorizations of matrices and tensors: low rank, quantized, sparse, Kronecker."""
