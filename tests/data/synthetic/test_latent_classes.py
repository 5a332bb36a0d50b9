import pytest
import torch

from gramian.data.synthetic.latent_classes import LatentClasses


def test_the_class_is_in_the_hidden_axes_and_nowhere_else():
    generator = torch.Generator().manual_seed(0)
    source = LatentClasses(dim=10, hidden=3, generator=generator)
    points = source.classes(5, generator)
    x, y = source.samples(points, 4000, generator)
    inner = 2 * torch.atanh(x.double()) @ source.rotation.double().T
    assert y.bincount().tolist() == [4000] * 5
    for c in range(5):
        rows = inner[y == c]
        torch.testing.assert_close(rows[:, :3].mean(0), points[c].double(), atol=0.02, rtol=0)
        torch.testing.assert_close(rows[:, 3:].mean(0), torch.zeros(7).double(), atol=0.1, rtol=0)
        spread = torch.tensor([0.25] * 3 + [1.5] * 7).double()
        torch.testing.assert_close(rows.std(0), spread, atol=0, rtol=0.05)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="hidden=9"):
        LatentClasses(dim=8, hidden=9)
    with pytest.raises(ValueError, match="at least zero"):
        LatentClasses(spread=-1)
