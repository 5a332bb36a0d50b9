"""Layers for time series: reversible normalization, mixing over variates, periods folded into planes."""
