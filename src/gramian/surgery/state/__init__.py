"""Surgery of state-space models: longer reach, fewer bits."""
