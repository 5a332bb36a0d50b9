"""What the loss looks like around and between trained networks."""
