"""One file a paper: its card, and the experiment that measures its claim."""
