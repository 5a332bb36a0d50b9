"""Generators: one phenomenon each, seeded, with the truth known."""

from gramian.data.synthetic.automata import IGNORE, Words, group_words, mod_counting, modular_arithmetic, parity
from gramian.data.synthetic.recall import associative_recall

__all__ = ["IGNORE", "Words", "associative_recall", "group_words", "mod_counting", "modular_arithmetic", "parity"]
