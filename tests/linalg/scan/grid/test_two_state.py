import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.scan.diagonal import diagonal_scan
from gramian.linalg.scan.grid.two_state import GridState, grid_scan, grid_step

DOUBLE = torch.float64


def draw(seed, batch, variates, length, size, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, variates, length, size)
    A = [torch.rand(shape, generator=generator, dtype=dtype) - 0.5 for _ in range(4)]
    b = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2)]
    edge = (batch, variates, size)
    return (*A, *b), GridState(*(torch.randn(edge, generator=generator, dtype=dtype) for _ in range(2)))


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_forms_agree(variates, length, size, reverse, started):
    cells, state = draw(variates + 10 * length, 2, variates, length, size)
    state = state if started else None
    exact = grid_scan(*cells, state, reverse_variates=reverse, form="sequential")
    for form in ("antidiagonal", "kernel"):
        found = grid_scan(*cells, state, reverse_variates=reverse, form=form)
        for a, b in zip((*found[:2], *found[2]), (*exact[:2], *exact[2]), strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", ["antidiagonal", "kernel"])
def test_gradients(form, reverse):
    cells, state = draw(1, 2, 3, 3, 2)
    inputs = [x.requires_grad_() for x in (*cells, *state)]

    def run(*tensors):
        h1, h2, last = grid_scan(*tensors[:6], GridState(*tensors[6:]), reverse_variates=reverse, form=form)
        return h1, h2, *last

    assert torch.autograd.gradcheck(run, inputs)


def test_single_precision_and_broadcast_coefficients():
    cells, state = draw(2, 2, 3, 20, 4, torch.float32)
    narrow = [x[:1, :1, :1] for x in cells[:4]]
    wide = [x.expand_as(cells[4]) for x in narrow]
    exact = grid_scan(*(x.double() for x in (*wide, *cells[4:])), form="sequential")
    found = grid_scan(*narrow, *cells[4:])
    assert found[0].dtype == torch.float32
    assert torch.allclose(found[1].double(), exact[1], atol=1e-5)
    assert grid_scan(*(x.bfloat16() for x in cells))[0].dtype == torch.float32
    assert torch.isfinite(grid_scan(*cells, state)[0]).all()


@given(st.integers(2, 8), st.data())
@settings(max_examples=10, deadline=None)
def test_time_may_be_split_anywhere_and_steps_continue(length, data):
    cut = data.draw(st.integers(1, length - 1))
    cells, state = draw(length, 2, 3, length, 2)
    for reverse in (False, True):
        h1, h2, last = grid_scan(*cells, state, reverse_variates=reverse)
        head = grid_scan(*(x[:, :, :cut] for x in cells), state, reverse_variates=reverse)
        tail = grid_scan(*(x[:, :, cut:] for x in cells), head[2], reverse_variates=reverse)
        assert torch.allclose(torch.cat((head[0], tail[0]), 2), h1)
        assert torch.allclose(tail[2].across, last.across)
        carried = state
        for t in range(length):
            carried = grid_step(*(x[:, :, t] for x in cells), carried, reverse_variates=reverse)
            assert torch.allclose(carried.time, h1[:, :, t])
            assert torch.allclose(carried.across, h2[:, :, t])


def test_without_coupling_two_families_of_scans_remain():
    (A1, A2, A3, A4, b1, b2), state = draw(3, 2, 4, 7, 3)
    h1, h2, _ = grid_scan(A1, 0 * A2, 0 * A3, A4, b1, b2, state)
    assert torch.allclose(h1, diagonal_scan(A1, b1, state.time)[0])
    assert torch.allclose(h2, diagonal_scan(A4.transpose(1, 2), b2.transpose(1, 2))[0].transpose(1, 2))


def test_the_past_does_not_know_the_future():
    cells, state = draw(4, 1, 3, 8, 2)
    changed = [x.clone() for x in cells]
    for x in changed:
        x[:, :, 5:] += 1
    for a, b in zip(grid_scan(*cells, state)[:2], grid_scan(*changed, state)[:2], strict=True):
        assert torch.equal(a[:, :, :5], b[:, :, :5])
        assert not torch.allclose(a[:, :, 5:], b[:, :, 5:])


def test_operator_passes_torchs_own_checks():
    from gramian.linalg.scan.grid.grid_ops import grid_scan_op

    cells, state = draw(5, 2, 2, 3, 2)
    torch.library.opcheck(grid_scan_op, (*(x.requires_grad_() for x in (*cells, *state)), True))


def test_bad_input_is_refused():
    cells, state = draw(6, 1, 2, 3, 2)
    with pytest.raises(ValueError, match="form='tree'"):
        grid_scan(*cells, form="tree")
    with pytest.raises(ValueError, match="at least one variate"):
        grid_scan(*(x[:, :0] for x in cells))
    with pytest.raises(ValueError, match=r"parts of shape \(1, 1, 2\)"):
        grid_scan(*cells, GridState(*(x[:, :1] for x in state)))
