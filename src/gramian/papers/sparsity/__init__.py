"""Sparsity: pruning, quantization, sparse activations."""
