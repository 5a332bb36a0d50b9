"""Frames of unit vectors, and the head that classifies by them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.manifold import frames
from gramian.nn.fixed_head import FixedHead


@settings(max_examples=20, deadline=None)
@given(count=st.integers(2, 12), extra=st.integers(0, 3))
def test_a_simplex_is_regular_and_centred(count, extra):
    w = frames.simplex(count, count - 1 + extra, dtype=torch.float64)
    expected = torch.full((count, count), -1 / (count - 1), dtype=torch.float64)
    torch.testing.assert_close(w @ w.T, expected.fill_diagonal_(1.0))
    assert w.sum(0).abs().max() < 1e-12


def test_orthoplex_and_cube():
    assert frames.orthoplex(3).shape == (6, 3)
    assert frames.coherence(frames.orthoplex(3)) == 1  # opposite vectors
    c = frames.cube(4, dtype=torch.float64)
    assert c.unique(dim=0).shape == (16, 4)
    torch.testing.assert_close(c.norm(dim=1), torch.ones(16, dtype=torch.float64))


def test_coherence_is_the_same_in_blocks():
    w = torch.randn(37, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = w / w.norm(dim=1, keepdim=True)
    brute = max(abs(float(unit[i] @ unit[j])) for i in range(37) for j in range(i))
    for block in (1, 8, 100):
        assert abs(float(frames.coherence(w, block=block)) - brute) < 1e-12


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 20), dim=st.integers(1, 8), seed=st.integers(0, 99))
def test_nothing_is_below_the_welch_bound(count, dim, seed):
    w = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert float(frames.coherence(w)) >= frames.welch_bound(count, dim) - 1e-12


def test_few_vectors_are_orthonormal_and_the_generator_decides():
    w = frames.equiangular_vectors(4, 6, dtype=torch.float64)
    torch.testing.assert_close(w @ w.T, torch.eye(4, dtype=torch.float64))
    twice = [frames.equiangular_vectors(7, 3, 0.9, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*twice)
    assert frames.coherence(twice[0]) <= 0.9


def test_bad_frames_raise():
    with pytest.raises(ValueError, match=r"at least 0\.3333"):
        frames.equiangular_vectors(16, 6, 0.3)
    with pytest.raises(ValueError, match="at least 2"):
        frames.equiangular_vectors(1, 6)
    with pytest.raises(ValueError, match="at least 1"):
        frames.equiangular_vectors(3, 0)
    with pytest.raises(ValueError, match="equiangular lines"):
        frames.equiangular_vectors(7, 3, exact=True)
    with pytest.raises(ValueError, match="simplex"):
        frames.simplex(4, 2)
    with pytest.warns(frames.FrameNotConverged):
        frames.equiangular_vectors(7, 4, exact=True, steps=30)  # no equiangular tight frame of this size exists


def test_the_fixed_head_has_no_parameter_and_is_saved():
    w = frames.simplex(5, 6)
    head = FixedHead(w, scale=4)
    assert not list(head.parameters())
    assert torch.equal(FixedHead(frames.simplex(5, 6) * -1, scale=4).vectors, -w)
    z = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = head(z)
    expected = 4 * torch.nn.functional.cosine_similarity(z[..., None, :], w, dim=-1)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(head(10 * z), logits)
    assert torch.equal(head.predict(z), expected.argmax(-1))
    logits[..., 0].sum().backward()
    assert (z.grad * z).sum(-1).abs().max() < 1e-5  # only the direction matters
    other = FixedHead(frames.simplex(5, 6).flip(0), scale=4)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.vectors, w)


@pytest.mark.parametrize("vectors", [2 * torch.eye(3), torch.eye(3)[:1], torch.full((3, 3), torch.nan)])
def test_a_head_of_vectors_that_are_not_unit_raises(vectors):
    with pytest.raises(ValueError, match="norm 1"):
        FixedHead(vectors)
    with pytest.raises(ValueError, match="positive"):
        FixedHead(torch.eye(3), scale=0.0)
