"""Classifiers: kernels of infinitely deep networks."""
