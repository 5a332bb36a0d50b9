"""Regressors: random features, layerwise networks, and regression after unsupervised pretraining."""
