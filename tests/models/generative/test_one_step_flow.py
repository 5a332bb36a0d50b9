import pytest
import torch

from gramian.models.generative import one_step_flow
from gramian.nn.invertible import InvertibleNet

WIDE = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def flow(shared=False):
    g = InvertibleNet((4,), blocks=2, hidden=8, generator=seeded(0)).to(WIDE)
    noise = None if shared else InvertibleNet((4,), blocks=1, hidden=8, generator=seeded(1)).to(WIDE)
    return one_step_flow.OneStepFlow(g, one_step_flow.TimeMatrix(4, rank=2, generator=seeded(2)).to(WIDE), noise)


@pytest.mark.parametrize("method", ["euler", "rk4"])
@pytest.mark.parametrize("shared", [False, True])
def test_one_step_is_all_steps(method, shared):
    x = torch.randn(5, 4, generator=seeded(3), dtype=WIDE)
    made = flow(shared)
    torch.testing.assert_close(made.collapse(7, method)(x), made.sample(x, 7, method), atol=1e-9, rtol=1e-9)


def test_a_constant_velocity_is_a_matrix_exponential():
    made = flow()
    with torch.no_grad():
        made.velocity.last.weight.zero_()
    velocity = made.velocity(torch.zeros(1, dtype=WIDE))[0]
    exact = torch.linalg.matrix_exp(velocity.detach())
    coarse, fine = (float((made.collapse(n, "rk4").matrix - exact).abs().max()) for n in (4, 8))
    assert 12 < coarse / fine < 20  # order four
    coarse, fine = (float((made.collapse(n).matrix - exact).abs().max()) for n in (64, 128))
    assert 1.8 < coarse / fine < 2.2  # order one


def test_velocities_have_their_rank_and_change_with_time():
    found = flow().velocity(torch.tensor([0.1, 0.9], dtype=WIDE))
    assert torch.linalg.matrix_rank(found).tolist() == [2, 2]
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_the_loss_of_identity_encoders_is_the_velocity_that_is_missed():
    made = flow()
    for g in (made.g, made.g_noise):
        for p in g.parameters():
            torch.nn.init.zeros_(p)
        for block in g.blocks:
            torch.nn.init.eye_(block.mix)
    with torch.no_grad():
        made.velocity.last.weight.zero_()
        made.velocity.last.bias.zero_()
    x = torch.randn(20000, 4, generator=seeded(4), dtype=WIDE)
    assert abs(made.loss(x, seeded(5)).item() - 1.0) < 0.02  # half the mean square of a difference of two normals


def test_the_loss_reaches_every_parameter():
    made = flow()
    made.loss(torch.randn(8, 4, generator=seeded(6), dtype=WIDE), seeded(7)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())


def test_what_does_not_fit_is_refused():
    g = InvertibleNet((4,), blocks=1, hidden=4)
    with pytest.raises(ValueError, match="must be the same"):
        one_step_flow.OneStepFlow(g, one_step_flow.TimeMatrix(6, rank=2))
    with pytest.raises(ValueError, match="rank=5"):
        one_step_flow.TimeMatrix(4, rank=5)
    with pytest.raises(ValueError, match="steps=0"):
        flow().collapse(0)
