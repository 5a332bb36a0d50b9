"""Train with activations kept in few bits: exact forward passes, quantized memories for the backward pass (Mesa)."""
