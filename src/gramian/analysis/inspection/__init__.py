"""Inspect a trained network: what its matrices look like, and what flows through them."""
