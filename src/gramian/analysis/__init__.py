"""Reads a trained network: taps and what is measured on activations."""

from gramian.analysis.reducers import Covariance, Keep, Moments, Reducer, Reservoir, ZeroCount
from gramian.analysis.taps import Taps

__all__ = ["Covariance", "Keep", "Moments", "Reducer", "Reservoir", "Taps", "ZeroCount"]
