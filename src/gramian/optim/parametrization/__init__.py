"""Parametrizations by width and depth: starts, multipliers and rates that keep their meaning as a model grows."""
