"""Run experiments, watch them, and keep what they measured."""
