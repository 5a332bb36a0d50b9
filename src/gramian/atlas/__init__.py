"""Finds the cards, runs the experiments, keeps the evidence, writes the reports."""
