import math

import pytest
import torch

from gramian.linalg.symmetry import irreps


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_shape_is_an_orthogonal_representation(n):
    table = irreps.symmetric_table(n)
    irreps.check_group_table(table)
    dimensions = []
    for shape in irreps.partitions(n):
        matrices = irreps.irreducible(shape)
        products = torch.einsum("aij,bjk->abik", matrices, matrices)
        assert (products - matrices[table]).abs().max() < 1e-12
        dimensions.append(matrices.shape[1])
    assert sum(d**2 for d in dimensions) == math.factorial(n)


def test_characters_are_orthonormal():
    characters = torch.stack([irreps.irreducible(s).diagonal(dim1=1, dim2=2).sum(1) for s in irreps.partitions(4)])
    torch.testing.assert_close(characters @ characters.mT / 24, torch.eye(5, dtype=torch.float64))


def test_the_hook_shape_permutes_points_less_their_mean():
    """The character of (n − 1, 1) is the number of fixed points less one."""
    import itertools

    fixed = [sum(p[i] == i for i in range(4)) for p in itertools.permutations(range(4))]
    found = irreps.irreducible((3, 1)).diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(found, torch.tensor(fixed, dtype=torch.float64) - 1)


def test_tables_that_are_no_groups_are_refused():
    irreps.check_group_table(irreps.cyclic_table(6))
    numbers = torch.arange(5)
    with pytest.raises(ValueError, match="outside"):
        irreps.check_group_table(irreps.cyclic_table(5) + 1)
    with pytest.raises(ValueError, match="two ways"):
        irreps.check_group_table((numbers[:, None] * numbers) % 5)
    with pytest.raises(ValueError, match="neutral"):
        irreps.check_group_table((numbers[:, None] + 2 * numbers) % 5)
    loop = torch.tensor(
        [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"\(a b\) c"):
        irreps.check_group_table(loop)


def test_what_cannot_be_is_refused():
    for shape in ((), (1, 2), (2, 0)):
        with pytest.raises(ValueError, match="rows of falling length"):
            irreps.standard_tableaux(shape)
    with pytest.raises(ValueError, match="up to 6"):
        irreps.irreducible((4, 3))
    with pytest.raises(ValueError, match="1 … 6"):
        irreps.symmetric_table(7)
    for call in (irreps.partitions, irreps.cyclic_table):
        with pytest.raises(ValueError, match="at least 1"):
            call(0)
