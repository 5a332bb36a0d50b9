"""Figures of merit that scikit-learn does not have."""
