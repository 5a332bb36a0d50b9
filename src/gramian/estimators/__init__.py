"""Methods with scikit-learn's API."""
