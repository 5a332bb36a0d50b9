"""The same matrices in other sciences."""
