"""Adaptation: low rank, adapters, merging."""
