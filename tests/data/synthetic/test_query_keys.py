import math

import pytest
import torch

from gramian.data.synthetic import query_keys


def test_tokens_lie_on_the_sphere_and_repeat_with_the_seed():
    draws = [query_keys.query_keys(7, 4, 5, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert draws[0].shape == (7, 5, 5)
    torch.testing.assert_close(draws[0].norm(dim=2), torch.full((7, 5), math.sqrt(5), dtype=torch.float64))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("kind", query_keys.TARGETS)
def test_targets_are_their_formulas_and_ignore_the_order(kind):
    x = query_keys.query_keys(3, 4, 5, torch.Generator().manual_seed(0))
    beta = torch.nn.functional.normalize(torch.arange(1.0, 6, dtype=torch.float64), dim=0)
    found = query_keys.target(x, beta, kind)
    for sample, value in zip(x, found):
        total = 0.0
        for key in sample[1:]:
            c = float(sample[0] @ key) / math.sqrt(5)
            weight = {"square": float(key @ beta), "correlation": c, "rectified": max(c, 0.0)}[kind]
            total += weight * float(key @ beta) / 4
        assert float(value) == pytest.approx(total)
    torch.testing.assert_close(query_keys.target(x[:, [0, 3, 1, 4, 2]], beta, kind), found)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        query_keys.query_keys(2, 0, 3)
    with pytest.raises(ValueError, match="unknown"):
        query_keys.target(torch.ones(1, 2, 3), torch.ones(3), "cube")
