"""State matrices: sequence models and time series."""
