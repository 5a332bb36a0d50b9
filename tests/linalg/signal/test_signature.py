import math
from itertools import product

import pytest
import torch

from gramian.linalg.signal.signature import chen, level_sizes, segment_signature, signature, signature_size


def walk(batch=2, length=9, channels=3, seed=0):
    return torch.randn(batch, length, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_words(path, depth):
    """Iterated sums over segments: every way to give a word's letters to segments in order."""
    steps = path.diff(dim=0)
    found = []
    for level in range(1, depth + 1):
        for word in product(range(path.shape[1]), repeat=level):
            values = [1.0] + [0.0] * level  # integrals of the word's beginnings so far
            for step in steps:
                for end in range(level, 0, -1):
                    total, run = values[end], 1.0
                    for back in range(1, end + 1):
                        run *= float(step[word[end - back]])
                        total += values[end - back] * run / math.factorial(back)
                    values[end] = total
            found.append(values[level])
    return torch.tensor(found, dtype=torch.float64)


def test_it_is_the_iterated_integrals():
    path = walk()
    found = signature(path, 4)
    assert found.shape == (2, signature_size(3, 4))
    for one, expected in zip(found, path, strict=True):
        torch.testing.assert_close(one, by_words(expected, 4), rtol=1e-10, atol=1e-10)


def test_a_line_is_powers_over_factorials():
    v = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    levels = signature(torch.stack([torch.zeros_like(v), v], 1), 5).split(level_sizes(2, 5), -1)
    power = torch.ones(1, dtype=torch.float64)
    for k, level in enumerate(levels, 1):
        power = torch.outer(power, v[0]).flatten()
        torch.testing.assert_close(level[0], power / math.factorial(k), rtol=1e-12, atol=1e-14)


def test_chen_joins_paths():
    path = walk()
    parts = [tuple(signature(p, 3).split(level_sizes(3, 3), -1)) for p in (path[:, :4], path[:, 3:])]
    torch.testing.assert_close(torch.cat(chen(*parts), -1), signature(path, 3))
    assert len(segment_signature(path[:, 0], 3)) == 3


def test_the_stream_is_every_prefix():
    for length in (2, 3, 8, 9):
        path = walk(length=length)
        stream = signature(path, 3, stream=True)
        assert stream.shape == (2, length - 1, 39)
        for end in range(2, length + 1):
            torch.testing.assert_close(stream[:, end - 2], signature(path[:, :end], 3))


def test_shuffles_and_times():
    path = walk()
    one, two = signature(path, 2).split(level_sizes(3, 2), -1)
    square = two.view(-1, 3, 3)
    torch.testing.assert_close(one[:, :, None] * one[:, None], square + square.mT)
    again = torch.cat([path[:, :4], path[:, 3:4], (path[:, 3:4] + path[:, 4:5]) / 2, path[:, 4:]], 1)
    torch.testing.assert_close(signature(again, 4), signature(path, 4))


def test_gradients():
    assert torch.autograd.gradcheck(lambda p: signature(p, 3), (walk(1, 5, 2).requires_grad_(),))
    assert torch.autograd.gradcheck(lambda p: signature(p, 2, stream=True), (walk(1, 4, 2).requires_grad_(),))


def test_bad_paths_are_refused():
    with pytest.raises(ValueError, match="at least 2 points"):
        signature(walk(length=1), 2)
    with pytest.raises(ValueError, match="NaN"):
        signature(walk() * torch.nan, 2)
    with pytest.raises(ValueError, match="lower depth"):
        signature(walk(channels=10), 7)
    with pytest.raises(ValueError, match="at least 1"):
        signature(walk(), 0)
