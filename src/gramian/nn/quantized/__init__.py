"""Layers whose weights are kept in few bits."""
