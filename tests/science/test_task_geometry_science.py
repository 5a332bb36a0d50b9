"""The task's geometry, the networks, and the gradient field against autograd."""

import pytest
import torch

from gramian.science import task_geometry
from gramian.science.task_geometry import make_task


def test_inputs_are_the_latents_and_their_product_embedded():
    task = make_task(3, 0.7, 0.0, samples=4, dim=9, generator=torch.Generator().manual_seed(2))
    assert task.inputs.shape == (32, 9)
    assert task.grid.shape == (8, 3)
    back = task.inputs @ task.embedding
    z = task.grid[task.conditions]
    assert torch.allclose(back[:, :3], z, atol=1e-5)
    assert torch.allclose(back[:, 3], 0.7 * z.prod(1), atol=1e-5)
    assert torch.allclose(task.inputs.norm(dim=1), torch.tensor((3 + 0.49) ** 0.5), atol=1e-5)
    assert torch.equal(task.targets[:, 0], z.prod(1))
    assert torch.equal(task.side, task.grid.prod(1) > 0)
    assert torch.equal(task.conditions.bincount(), torch.full((8,), 4))


def test_noise_and_labels_of_choice():
    clean, noisy = (make_task(2, 0.5, s, generator=torch.Generator().manual_seed(1), samples=400) for s in (0.0, 0.2))
    assert float((noisy.inputs - clean.inputs).std()) == pytest.approx(0.2, rel=0.05)
    both = make_task(2, labels=lambda z: z, samples=3)
    assert both.targets.shape == (12, 2)
    assert torch.equal(both.targets, both.grid[both.conditions])


def test_a_network_learns_xor_and_a_seed_repeats():
    task = make_task(samples=8, delta=1.0)
    nets = [
        task_geometry.train_one_hidden(task.inputs, task.targets, torch.tanh, hidden=16, steps=150, lr=0.02,
                                       generator=torch.Generator().manual_seed(3)) for _ in range(2)
    ]  # fmt: skip
    assert torch.equal(nets[0].write.weight, nets[1].write.weight)
    assert bool(((nets[0](task.inputs) > 0) == (task.targets > 0)).all())
    assert nets[0].hidden(task.inputs).shape == (32, 16)


def test_the_start_has_its_variance_and_no_hidden_bias():
    net = task_geometry.OneHidden(50, 400, 2, torch.relu, torch.Generator().manual_seed(0))
    assert float(net.write.weight.detach().var()) == pytest.approx(1 / 150, rel=0.05)
    assert not net.write.bias.any()


@pytest.mark.parametrize("activation", [torch.tanh, torch.relu, torch.nn.functional.softplus])
def test_the_field_is_minus_the_loss_gradient(activation):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    w = torch.randn(7, 5, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randn(30, generator=generator, dtype=torch.float64)
    bias = torch.randn(7, generator=generator, dtype=torch.float64)
    answers = 0.8 * activation(w @ x.T + bias[:, None])  # each point a network of one unit
    loss = 0.5 * (target - answers).square().mean(1).sum()
    (wanted,) = torch.autograd.grad(loss, w)
    for point in range(7):
        found = task_geometry.expected_gradient_field(
            w[point : point + 1].detach(), x, (target - answers[point]).detach(), activation, readout=0.8,
            bias=bias[point : point + 1],
        )  # fmt: skip
        assert torch.allclose(found[0], -wanted[point])


def test_what_is_no_task_is_refused():
    with pytest.raises(ValueError, match="k=1"):
        make_task(1)
    with pytest.raises(ValueError, match="dim=2"):
        make_task(2, dim=2)
    with pytest.raises(ValueError, match="one class only"):
        make_task(labels=lambda z: torch.ones(len(z), 1))
    with pytest.raises(ValueError, match="not a function"):
        make_task(labels=lambda z: torch.tensor([[1.0], [-1.0], [1.0], [1.0]]))
    with pytest.raises(ValueError, match="−1 and 1 only"):
        make_task(labels=lambda z: z[:, :1] * 2)
    with pytest.raises(ValueError, match="targets are"):
        task_geometry.train_one_hidden(torch.ones(2, 3), torch.zeros(2, 1), torch.tanh)
    with pytest.raises(ValueError, match="2 residuals"):
        task_geometry.expected_gradient_field(torch.ones(1, 3), torch.ones(4, 3), torch.ones(2), torch.tanh)
