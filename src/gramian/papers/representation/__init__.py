"""Representations: objectives, fixed heads, retrieval and compatibility."""
