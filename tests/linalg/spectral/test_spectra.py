import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.spectral import center_and_normalize, effective_rank, matrix_entropy, nuclear_norm


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(columns=st.integers(1, 12), more=st.integers(0, 20), seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_column_norms_bound_the_nuclear_norm_and_both_are_norms(columns, more, seed, scale):
    x = normal(columns + more, columns, seed=seed)
    exact, fast = nuclear_norm(x), nuclear_norm(x, "l12")
    assert fast >= exact * (1 - 1e-12)
    assert torch.isclose(nuclear_norm(scale * x), scale * exact)
    assert torch.isclose(nuclear_norm(scale * x, "l12"), scale * fast)
    q = torch.linalg.qr(normal(columns, columns, seed=seed + 1)).Q
    assert torch.isclose(nuclear_norm(x @ q), exact)


def test_known_values():
    x = torch.diag(torch.tensor([3.0, 2.0, 0.0, 1.0], dtype=torch.float64))
    assert nuclear_norm(x) == nuclear_norm(x, "l12") == 6
    assert nuclear_norm(x, "l12", top=2) == 5
    assert torch.isclose(matrix_entropy(torch.eye(5, dtype=torch.float64)), torch.tensor(1.0, dtype=torch.float64))
    assert abs(matrix_entropy(torch.ones(4, 3))) < 1e-6
    assert torch.isclose(effective_rank(torch.eye(5, 3, dtype=torch.float64)), torch.tensor(3.0, dtype=torch.float64))
    assert torch.isclose(effective_rank(torch.ones(4, 3)), torch.tensor(1.0))
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    weighted = torch.diag(p.sqrt())
    assert torch.isclose(
        matrix_entropy(weighted), -(p * p.log()).sum() / torch.log(torch.tensor(3.0, dtype=torch.float64))
    )


def test_rows_are_centred_and_of_length_one():
    x = center_and_normalize(normal(7, 5))
    assert torch.allclose(x.norm(dim=1), torch.ones(7, dtype=torch.float64))
    assert torch.allclose(center_and_normalize(normal(7, 5) + 100.0), x)


def test_gradients_and_half_precision():
    x = normal(6, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: nuclear_norm(center_and_normalize(t), "l12"), (x,))
    assert torch.autograd.gradcheck(nuclear_norm, (x,))
    assert torch.autograd.gradcheck(matrix_entropy, (x,))
    half = normal(6, 4).to(torch.bfloat16)
    assert nuclear_norm(half).dtype == torch.float32
    assert torch.isclose(nuclear_norm(half), nuclear_norm(half.float()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: center_and_normalize(x[:1]), "at least 2 rows"),
        (lambda x: center_and_normalize(x[:1].repeat(4, 1)), "equal the mean row"),
        (lambda x: nuclear_norm(x * torch.nan), "NaN"),
        (lambda x: nuclear_norm(x, "l12", top=9), "top=9"),
        (lambda x: nuclear_norm(x, "l12", top=0), "top=0"),
        (lambda x: nuclear_norm(x, "svd", top=2), "belongs to"),
        (lambda x: matrix_entropy(x * 0), "zero"),
        (lambda x: matrix_entropy(x[:, :1]), "one column"),
        (lambda x: effective_rank(x * 0), "zero"),
    ],
)
def test_bad_input_is_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(6, 4))
