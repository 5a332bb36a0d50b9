"""Papers about neural collapse: features that fall on their class means."""
