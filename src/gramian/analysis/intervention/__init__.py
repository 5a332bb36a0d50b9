"""Change what flows inside a network and see what follows: patching, ablation, searches for directions."""
