"""Forecasters and classifiers of series; forecasters map (batch, look_back, channels) to (batch, horizon, channels)."""
