"""One file a need: data, metrics, baselines and the methods that serve it."""
