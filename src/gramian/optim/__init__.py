"""Optimizers, parametrizations, the fit loop."""

from gramian.optim.fit import Diverged, History, fit, parameter_groups

__all__ = ["Diverged", "History", "fit", "parameter_groups"]
