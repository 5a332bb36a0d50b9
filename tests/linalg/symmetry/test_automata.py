"""Permutation automata and their reflections."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.symmetry import cyclic_group, householder_realization, run_automaton, symmetric_group


@given(st.permutations(range(6)))
@settings(max_examples=50, deadline=None)
def test_factors_multiply_to_the_permutation_matrix_with_least_reflections(permutation):
    row = np.array([permutation])
    machine = householder_realization(row, torch.float64)
    target = torch.zeros(6, 6, dtype=torch.float64)
    target[torch.tensor(permutation), torch.arange(6)] = 1
    torch.testing.assert_close(machine.transition(0), target)
    fixed = int(torch.linalg.matrix_rank(target - torch.eye(6, dtype=torch.float64)))
    assert int((machine.beta == 2).sum()) == fixed  # the rank of P − I is the least number of reflections


@pytest.mark.parametrize("group", [cyclic_group(2), cyclic_group(7), symmetric_group(3), symmetric_group(5)])
def test_machine_runs_the_automaton(group):
    words = torch.randint(len(group), (3, 200), generator=torch.Generator().manual_seed(0))
    machine = householder_realization(group)
    for start in range(group.shape[1]):
        assert (machine.run(words, start).numpy() == run_automaton(group, words.numpy(), start)).all()


def test_run_automaton_against_a_plain_loop():
    rng = np.random.default_rng(0)
    table, words = rng.integers(0, 5, (3, 5)), rng.integers(0, 3, (4, 30))
    for word, visited in zip(words, run_automaton(table, words, 2), strict=True):
        states = list(itertools.accumulate(word, lambda s, a: table[a, s], initial=2))[1:]
        assert visited.tolist() == states


def test_groups():
    assert cyclic_group(3).tolist() == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert len(symmetric_group(5)) == len({tuple(r) for r in symmetric_group(5).tolist()}) == 120


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="not a permutation"):
        householder_realization(np.array([[0, 0, 1]]))
    with pytest.raises(ValueError, match="at least two states"):
        householder_realization(np.array([[0]]))
    with pytest.raises(ValueError, match="letters must lie in"):
        run_automaton(cyclic_group(2), np.array([[2]]))
    with pytest.raises(ValueError, match="start=3"):
        run_automaton(cyclic_group(2), np.array([[1]]), start=3)
    with pytest.raises(ValueError, match="modulus"):
        cyclic_group(1)
    with pytest.raises(ValueError, match="2 to 8"):
        symmetric_group(9)
