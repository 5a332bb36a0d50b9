import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.symmetry import irreps
from gramian.science import max_margin


def pairs_of(table):
    return torch.cartesian_prod(torch.arange(len(table)), torch.arange(len(table))), table.flatten()


@pytest.mark.parametrize("p", [3, 5, 7])
def test_cyclic_networks_reach_the_formula(p):
    network = max_margin.cyclic_network(p)
    margin = max_margin.normalized_margin(network, *pairs_of(irreps.cyclic_table(p)))
    assert float(margin.detach()) == pytest.approx(max_margin.modular_margin(p), rel=1e-12)
    assert len(network.first) == 4 * (p - 1)


@pytest.mark.parametrize(("bits", "k"), [(3, 1), (4, 2), (5, 3)])
def test_parity_networks_reach_the_formula(bits, k):
    x = max_margin.parity_inputs(bits)
    labels = (x[:, :k].prod(1) < 0).long()
    margin = max_margin.normalized_margin(max_margin.parity_network(bits, k), x, labels)
    assert float(margin.detach()) == pytest.approx(max_margin.parity_margin(k), rel=1e-12)


def test_group_networks_reach_the_formula():
    representations = [irreps.irreducible(s) for s in irreps.partitions(3)[1:]]
    margin = max_margin.normalized_margin(
        max_margin.group_network(representations), *pairs_of(irreps.symmetric_table(3))
    )
    assert float(margin.detach()) == pytest.approx(max_margin.group_margin([2, 1], 6), rel=1e-12)


@settings(max_examples=10)
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_the_margin_knows_no_scale_and_random_networks_stay_below(scale, seed):
    x, y = pairs_of(irreps.cyclic_table(5))
    network = max_margin.PairNetwork.random(5, 16, generator=torch.Generator().manual_seed(seed)).double()
    margin = max_margin.normalized_margin(network, x, y).detach()
    scaled = max_margin.PairNetwork(*(scale * p.detach() for p in network.parameters()))
    torch.testing.assert_close(max_margin.normalized_margin(scaled, x, y).detach(), margin)
    assert margin <= max_margin.modular_margin(5)


def test_the_margin_is_differentiable():
    x, y = pairs_of(irreps.cyclic_table(3))
    start = max_margin.PairNetwork.random(3, 4, generator=torch.Generator().manual_seed(1)).double()

    def margin(*weights):
        network = max_margin.PairNetwork(*weights)
        for name, weight in zip(("first", "second", "readout"), weights):
            delattr(network, name)
            setattr(network, name, weight)
        return max_margin.normalized_margin(network, x, y)

    assert torch.autograd.gradcheck(margin, [p.detach().requires_grad_() for p in start.parameters()])


def test_what_cannot_be_is_refused():
    for p in (1, 2, 9, 12):
        with pytest.raises(ValueError, match="odd prime"):
            max_margin.cyclic_network(p)
    with pytest.raises(ValueError, match="must lie in 1"):
        max_margin.parity_network(3, 4)
    with pytest.raises(ValueError, match="at least 1"):
        max_margin.parity_margin(0)
    with pytest.raises(ValueError, match="1 \\+ Σ d² must be 6"):
        max_margin.group_margin([2], 6)
    with pytest.raises(ValueError, match="not orthogonal"):
        max_margin.group_network([2 * irreps.irreducible((2, 1)), irreps.irreducible((1, 1, 1))])
    with pytest.raises(ValueError, match="agree"):
        max_margin.PairNetwork(torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 3))
    with pytest.raises(ValueError, match="agree"):
        max_margin.ParityNetwork(torch.ones(2, 3), torch.ones(3, 2), 2)
    nothing = max_margin.PairNetwork(*(torch.zeros(2, 3) for _ in range(3)))
    with pytest.raises(ValueError, match="all weights are zero"):
        max_margin.normalized_margin(nothing, *pairs_of(irreps.cyclic_table(3)))
