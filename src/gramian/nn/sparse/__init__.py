"""Layers that leave part of their work out."""
