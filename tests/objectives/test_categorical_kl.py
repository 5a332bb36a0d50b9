import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from gramian.objectives.categorical_kl import balanced_kl, categorical_kl


def logits(seed, scale=1.0):
    return (
        scale * torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ).requires_grad_()


def test_it_is_torchs_divergence_summed_over_the_groups():
    p, q = logits(0), logits(1)
    expected = kl_divergence(Categorical(logits=p), Categorical(logits=q)).sum(-1)
    torch.testing.assert_close(categorical_kl(p, q), expected)
    assert torch.autograd.gradcheck(
        categorical_kl, (p[:1, :1].detach().requires_grad_(), q[:1, :1].detach().requires_grad_())
    )


def test_each_side_is_drawn_by_its_own_term():
    p, q = logits(0, 3.0), logits(1, 3.0)
    plain = torch.autograd.grad(categorical_kl(p, q).mean(), (p, q))
    loss, value = balanced_kl(p, q, free_bits=1.0, representation=0.1)
    ours = torch.autograd.grad(loss, (p, q))
    torch.testing.assert_close(ours[0], 0.1 * plain[0])
    torch.testing.assert_close(ours[1], plain[1])
    torch.testing.assert_close(loss.detach(), 1.1 * value)


def test_below_the_free_bits_nothing_is_drawn():
    p = logits(0)
    q = (p.detach() + 0.01).requires_grad_()
    loss, value = balanced_kl(p, q)
    assert float(value) < 1
    assert float(loss.detach()) == pytest.approx(1.1)
    for gradient in torch.autograd.grad(loss, (p, q)):
        assert not bool(gradient.any())


def test_what_is_masked_does_not_count():
    p, q = logits(0, 3.0), logits(1, 3.0)
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[1, :2] = True
    loss, value = balanced_kl(p, q, mask)
    torch.testing.assert_close(value, categorical_kl(p, q)[1, :2].mean().detach())
    (gradient,) = torch.autograd.grad(loss, p)
    assert not bool(gradient[~mask].any())
    with pytest.raises(ValueError, match="mask leaves no element"):
        balanced_kl(p, q, torch.zeros_like(mask))


@pytest.mark.parametrize("bad", [{"free_bits": -1.0}, {"representation": -0.1}])
def test_negative_weights_are_refused(bad):
    with pytest.raises(ValueError, match="negative"):
        balanced_kl(logits(0), logits(1), **bad)
