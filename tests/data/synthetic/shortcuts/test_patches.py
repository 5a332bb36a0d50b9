import pytest
import torch

from gramian.data.synthetic.shortcuts.patches import SpuriousPatches


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_sample_is_three_known_patches_in_some_order():
    task = SpuriousPatches(dim=10, agreement=0.7, core=0.3, spurious=2.0, noise=0.0, generator=generator())
    assert abs(float(task.core_vector @ task.spurious_vector)) < 1e-6
    assert float(task.core_vector.norm()) == pytest.approx(1, abs=1e-6)
    x, label, groups = task.sample(200, generator(1))
    y = 2.0 * label - 1
    wrong = groups - 2 * label
    assert set(wrong.tolist()) == {0, 1}
    core = x @ task.core_vector
    torch.testing.assert_close(core.sum(1), 0.3 * y, rtol=0, atol=1e-5)
    torch.testing.assert_close((x @ task.spurious_vector).sum(1), 2 * y * (1 - 2.0 * wrong), rtol=0, atol=1e-5)
    assert int((x.norm(dim=2) < 1e-6).sum()) == 200  # the noise patch, silent here
    places = core.abs().argmax(1)
    assert torch.bincount(places, minlength=3).min() > 40


def test_noise_has_its_size():
    task = SpuriousPatches(dim=40, core=0.0, spurious=0.0, noise=0.5, generator=generator())
    x, _, groups = task.sample(2000, generator(1))
    assert float(x.square().sum((1, 2)).mean() / 40) == pytest.approx(0.25, rel=0.02)
    assert 0.01 < float((groups % 2).double().mean()) < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 1}, "dim"),
        ({"agreement": 1.0}, "agreement"),
        ({"core": -1.0}, "negative"),
        ({"noise": -0.1}, "negative"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SpuriousPatches(**options)
