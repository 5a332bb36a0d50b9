"""Which samples a training sees, and when."""
