"""Symmetry: automata that permute their states, and their matrices."""

from gramian.linalg.symmetry.automata import (
    Realization,
    cyclic_group,
    householder_realization,
    run_automaton,
    symmetric_group,
)

__all__ = ["Realization", "cyclic_group", "householder_realization", "run_automaton", "symmetric_group"]
