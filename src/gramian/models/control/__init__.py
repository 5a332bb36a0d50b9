"""Networks that learn to act."""
