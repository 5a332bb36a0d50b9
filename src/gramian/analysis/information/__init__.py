"""Estimates of what a layer knows: entropies and mutual information of activations."""
