"""Generators: one phenomenon each, seeded, with the truth known."""

from gramian.data.synthetic.automata import IGNORE, Words, group_words, mod_counting, modular_arithmetic, parity

__all__ = ["IGNORE", "Words", "group_words", "mod_counting", "modular_arithmetic", "parity"]
