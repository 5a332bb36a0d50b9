import numpy as np
import pytest
import torch

from gramian.data.synthetic.state_machines import random_machine
from gramian.linalg.symmetry.automata import run_automaton
from gramian.nn.state.bilinear import KINDS, BilinearRNN


def layer_of(kind, seed=0, **options):
    return BilinearRNN(3, 6, kind, rank=4, block_size=3, generator=torch.Generator().manual_seed(seed), **options)


def matrices(layer, x):
    """A(x) of each input, as the definition says."""
    if layer.kind == "full":
        return torch.einsum("ijk,nk->nij", layer.weight, x)
    if layer.kind == "factored":
        return torch.stack([layer.left @ torch.diag(layer.weight @ v) @ layer.right.mT for v in x])
    if layer.kind == "block":
        return torch.stack([torch.block_diag(*(layer.weight @ v)) for v in x])
    if layer.kind == "diagonal":
        return torch.stack([torch.diag(layer.weight @ v) for v in x])
    turns = []
    for v in x:
        angles = layer.weight @ v
        turns.append(torch.block_diag(*(torch.stack((torch.stack((a.cos(), -a.sin())), torch.stack((a.sin(), a.cos()))))
                                        for a in angles)))  # fmt: skip
    return torch.stack(turns)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [False, True])
def test_each_kind_multiplies_by_its_matrix(kind, normalize):
    layer = layer_of(kind, normalize=normalize).double()
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    states, last = layer(x)
    for i in range(2):
        h = layer.start
        for t, A in enumerate(matrices(layer, x[i])):
            h = A @ h
            h = h / h.norm() if normalize and kind != "rotation" else h
            assert torch.allclose(states[i, t], h, rtol=1e-8, atol=1e-9)
        assert torch.allclose(last[i], h)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_steps_continue(kind):
    layer = layer_of(kind).double()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    states, last = layer(x)
    head, carried = layer(x[:, :4])
    tail, end = layer(x[:, 4:], carried)
    assert torch.allclose(torch.cat((head, tail), 1), states)
    assert torch.allclose(end, last)
    h = layer.initial_state(2)
    for t in range(9):
        y, h = layer.step(x[:, t], h)
        assert torch.allclose(y, states[:, t])


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns_and_starts_from_the_generator(kind):
    layer, again, other = layer_of(kind), layer_of(kind), layer_of(kind, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), again.parameters(), strict=True))
    assert not torch.equal(layer.weight, other.weight)
    (layer(torch.randn(2, 5, 3))[0] * torch.randn(6)).sum().backward()
    assert all(bool((p.grad != 0).any()) for p in layer.parameters())


@pytest.mark.parametrize("kind", ["full", "factored"])
def test_automata_run_exactly(kind):
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        table = random_machine(3, 6, generator)
        words = torch.randint(3, (2, 80), generator=generator)
        layer = BilinearRNN.from_automaton(table, kind, start=2)
        assert (layer.run(words).argmax(-1).numpy() == run_automaton(table, words.numpy(), 2)).all()
    assert layer.rank == 18


def test_counter_adds_modulo():
    counter, readout = BilinearRNN.modular_counter(7)
    words = torch.randint(7, (3, 50), generator=torch.Generator().manual_seed(1))
    assert torch.equal((counter.run(words) @ readout.mT).argmax(-1), words.cumsum(1) % 7)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="kind='tree'"):
        BilinearRNN(3, 6, "tree")
    with pytest.raises(ValueError, match="rank=0"):
        BilinearRNN(3, 6, "factored", rank=0)
    with pytest.raises(ValueError, match="parts of 4"):
        BilinearRNN(3, 6, "block", block_size=4)
    layer = layer_of("full")
    with pytest.raises(ValueError, match="letters must lie in 0 … 2"):
        layer.run(torch.tensor([[0, 3]]))
    with pytest.raises(ValueError, match="input_size=3"):
        layer(torch.randn(1, 4, 2))
    with pytest.raises(ValueError, match="'full' or 'factored'"):
        BilinearRNN.from_automaton(np.array([[0, 1]]), "diagonal")
    with pytest.raises(ValueError, match="name others"):
        BilinearRNN.from_automaton(np.array([[0, 2]]))
    with pytest.raises(ValueError, match="modulus=1"):
        BilinearRNN.modular_counter(1)
