"""Recurrences over a grid: one state moves along time, one across the variates, and each feeds the other."""
