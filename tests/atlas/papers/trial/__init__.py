"""Trials of the machinery."""
