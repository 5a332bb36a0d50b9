"""A trained network in few bits."""
