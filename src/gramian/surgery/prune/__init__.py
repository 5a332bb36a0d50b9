"""Removes weights of a trained network."""
