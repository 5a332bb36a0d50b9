"""Data with a shortcut: something easy that goes with the label on most of the samples."""
