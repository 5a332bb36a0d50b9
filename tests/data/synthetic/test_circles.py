import pytest
import torch

from gramian.data.synthetic.circles import circles_and_lines, modular_addition


def test_addition_in_a_cycle():
    pairs, answers = modular_addition(5)
    assert pairs.shape == (25, 2)
    assert torch.equal(answers, (pairs[:, 0] + pairs[:, 1]) % 5)
    assert len(pairs.unique(dim=0)) == 25
    with pytest.raises(ValueError, match="period"):
        modular_addition(1)


def test_samples_are_sums_of_what_is_present():
    p = circles_and_lines(
        500, width=16, circles=2, lines=5, probability=0.3, generator=torch.Generator().manual_seed(0)
    )
    every = torch.cat((p.circles.flatten(0, 1), p.lines))
    assert torch.allclose(every @ every.T, torch.eye(9), atol=1e-5)
    sizes = (p.samples @ p.circles.flatten(0, 1).T).view(500, 2, 2).norm(dim=2)
    assert torch.allclose(sizes, p.present[:, :2], atol=1e-5)
    assert torch.allclose(p.samples @ p.lines.T, p.present[:, 2:], atol=1e-5)
    assert 0.25 < float((p.present > 0).float().mean()) < 0.35
    again = circles_and_lines(500, 16, 2, 5, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(p.samples, again.samples)
    many = circles_and_lines(10, width=4, circles=1, lines=7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(many.lines.norm(dim=1), torch.ones(7))


def test_what_it_refuses():
    with pytest.raises(ValueError, match="axes"):
        circles_and_lines(10, width=3, circles=2)
    with pytest.raises(ValueError, match="probability"):
        circles_and_lines(10, probability=0.0)
    with pytest.raises(ValueError, match="at least one"):
        circles_and_lines(10, circles=0, lines=0)
