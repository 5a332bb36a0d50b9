"""Layers: plain torch modules."""
