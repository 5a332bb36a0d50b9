"""Which of several features of its input a model decides by."""
