"""What observers read off a calibration."""

import pytest
import torch

from gramian.linalg.factor.quant.observers import LargestMagnitude, Percentile, magnitude_percentile


def test_largest_magnitude_over_batches():
    observer = LargestMagnitude()
    for x in (torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0, 0.5]])):
        observer.update(x)
    assert float(observer.largest) == 3
    assert float(observer.scale(8)) == pytest.approx(3 / 127)
    assert float(observer.scale(4)) == pytest.approx(3 / 7)


def test_largest_magnitude_by_groups():
    observer = LargestMagnitude(torch.tensor([0, 1, 0, 1]))
    observer.update(torch.tensor([[1.0, -2.0, 5.0, 0.0], [0.0, 3.0, -1.0, 0.0]]))
    assert observer.largest.tolist() == [5, 3, 5, 3]


@pytest.mark.parametrize("alpha", [0.6, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_percentile_is_torchs_quantile(alpha, count):
    x = torch.randn(count).abs()
    torch.testing.assert_close(magnitude_percentile(x, alpha), torch.quantile(x, alpha))


def test_percentile_moves_slowly():
    observer = Percentile(1, momentum=0.25)
    observer.update(torch.tensor([4.0, -1.0]))
    observer.update(torch.tensor([8.0, -1.0]))
    assert float(observer.largest) == 5


@pytest.mark.parametrize("alpha", [0.5, 0.0, 1.001, float("nan")])
def test_percentile_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match="above 0"):
        Percentile(alpha)


def test_momentum_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="momentum"):
        Percentile(0.9, momentum=0)


@pytest.mark.parametrize("observer", [LargestMagnitude(), Percentile(0.9)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_refused(observer, bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        observer.update(torch.tensor([1.0, bad]))


@pytest.mark.parametrize("observer", [LargestMagnitude(), Percentile(0.9)])
def test_without_a_calibration_there_is_no_scale(observer):
    with pytest.raises(ValueError, match="no activations were seen"):
        observer.scale()
