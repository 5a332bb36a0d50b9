"""Papers on what becomes of networks as they grow wide and deep."""
