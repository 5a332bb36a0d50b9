"""Functions on tensors: everything mathematical starts here."""
