import math

import pytest
import torch

from gramian.data.synthetic.shortcuts.latents import ShortcutTask


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_log_odds_are_those_of_the_two_gaussians():
    task = ShortcutTask(0.7, 0.9, correlation=0.4, generator=generator())
    _, _, z = task.sample(20, generator(1))
    normal = [torch.distributions.MultivariateNormal(sign * task.means, task.covariance) for sign in (1, -1)]
    torch.testing.assert_close(task.optimal(z), normal[0].log_prob(z) - normal[1].log_prob(z))


def test_signs_get_right_what_was_asked_and_labels_are_balanced():
    task = ShortcutTask(0.65, 0.95, correlation=-0.5, generator=generator())
    _, y, z = task.sample(10_001, generator(1))
    assert y.sum() == 1
    for k, rho in enumerate((0.65, 0.95)):
        assert abs(float((z[:, k].sign() == y).double().mean()) - rho) < 4 * math.sqrt(rho * (1 - rho) / 1e4)
    inner = z - y[:, None] * task.means
    assert abs(float(torch.corrcoef(inner.T)[0, 1]) + 0.5) < 0.04


def test_the_embedding_is_isometric_and_amplifies_the_shortcut_alone():
    plain, loud = (ShortcutTask(amplification=a, dim=8, generator=generator(3)) for a in (1.0, 5.0))
    z = torch.randn(30, 2, generator=generator(4), dtype=torch.float64)
    torch.testing.assert_close(torch.pdist(plain.embed(z)), torch.pdist(z))
    torch.testing.assert_close(torch.pdist(loud.embed(z)), torch.pdist(z * torch.tensor([5.0, 1.0])))
    first = z * torch.tensor([0.0, 1.0])
    torch.testing.assert_close(loud.embed(first), plain.embed(first))


def test_nested_features_can_be_read_back():
    task = ShortcutTask(nesting=(0, 3), dim=6, generator=generator(1))
    z = torch.randn(40, 2, generator=generator(2), dtype=torch.float64)
    part = (task.embed(z) @ task.rotation)[:, 3:]
    for weight, bias in reversed(task.layers[1]):
        part = (torch.where(part < 0, part / 0.2, part) - bias) @ weight.T
    torch.testing.assert_close(part @ task.directions[1], z[:, 1])
    line = torch.linalg.svdvals(task.embed(z) - task.embed(z).mean(0))
    assert float(line[2]) > 0.01 * float(line[0])  # no longer a plane


def test_the_same_seed_gives_the_same_task():
    one, two = (ShortcutTask(generator=generator(5)).sample(7, generator(6)) for _ in range(2))
    for a, b in zip(one, two):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortcut": 0.5}, "predictivity"),
        ({"core": 1.0}, "predictivity"),
        ({"amplification": 0.0}, "amplification"),
        ({"correlation": 1.0}, "singular"),
        ({"dim": 1}, "even"),
        ({"dim": 5}, "even"),
        ({"nesting": (0, -1)}, "negative"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ShortcutTask(**options)
