"""Random sampling, sketches and features."""
