"""Changes to a trained network that make attacks on it harder."""
