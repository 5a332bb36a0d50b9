"""Explanation: what in an input made the answer."""
