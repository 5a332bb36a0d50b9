"""Vector symbolic spaces and the fast Hadamard transform under them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard as scipy_hadamard

from gramian.linalg.signal import hadamard
from gramian.linalg.vsa import KINDS, NotOrthogonalError, Space


@settings(max_examples=12, deadline=None)
@given(power=st.integers(0, 9), seed=st.integers(0, 99))
def test_the_fast_transform_is_the_dense_one(power, seed):
    n = 2**power
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    dense = torch.as_tensor(scipy_hadamard(n), dtype=torch.float64)
    torch.testing.assert_close(hadamard.fwht(x, normalized=False), x @ dense)
    torch.testing.assert_close(hadamard.fwht(hadamard.fwht(x)), x)
    torch.testing.assert_close(hadamard.hadamard_matrix(n, torch.float64), dense)


def test_the_fast_transform_differentiates_and_wants_powers_of_two():
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(hadamard.fwht, (x,))
    with pytest.raises(ValueError, match="pad to 16"):
        hadamard.fwht(torch.ones(12))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "gauss"])
def test_unbinding_undoes_binding_at_any_depth(kind):
    space = Space(128, kind=kind, dtype=torch.float64)
    x = space.items(["a", "b", "c"])
    y = space.bind("outer", space.bind("inner", x, times=5))
    torch.testing.assert_close(y @ y.T, x @ x.T)
    torch.testing.assert_close(space.unbind("inner", space.unbind("outer", y), times=5), x)
    torch.testing.assert_close(space.bind("r", x[0] + 2 * x[1]), space.bind("r", x[0]) + 2 * space.bind("r", x[1]))
    assert (x[0] @ space.bind("inner", x[0])).abs() < 0.4


def test_clean_up_names_what_was_bound():
    space = Space(1024, seed=3)
    record = space.bundle([space.bind("colour", space.item("red")), space.bind("shape", space.item("cube"))])
    both = torch.stack((space.unbind("shape", record), space.unbind("colour", record)))
    assert space.cleanup(both, ["red", "cube", "ball"]) == ("cube", "red")


def test_two_processes_agree():
    code = "from gramian.linalg.vsa import Space; s = Space(64, 5, 'haar'); print(s.bind('r', s.item('x')).tolist())"
    texts = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(texts) == 1
    here = Space(64, 5)
    np.testing.assert_allclose(here.bind("r", here.item("x")), eval(texts.pop()), atol=1e-6)
    other = Space(64, 6)
    assert not torch.allclose(here.item("x"), other.item("x"))


def test_bad_spaces_raise():
    with pytest.raises(ValueError, match="not one of"):
        Space(64, kind="magic")
    with pytest.raises(ValueError, match="power of two"):
        Space(100, kind="hd")
    with pytest.raises(ValueError, match="reflections"):
        Space(64, kind="householder", reflections=65)
    gauss = Space(64, kind="gauss")
    with pytest.raises(NotOrthogonalError, match="haar"):
        gauss.unbind("r", gauss.item("x"))
    with pytest.raises(ValueError, match="negative"):
        gauss.bind("r", gauss.item("x"), times=-1)
