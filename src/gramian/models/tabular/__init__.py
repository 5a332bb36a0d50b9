"""Networks that read tables."""
