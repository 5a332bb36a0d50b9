"""Activation matrices: what is in a trained network."""
