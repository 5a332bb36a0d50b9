"""Fisher matrices of trained networks: diagonal, blocks, gradient windows and Kronecker factors."""
