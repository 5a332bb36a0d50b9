"""Makes one network out of several of the same architecture."""
