import pytest
import torch
from torch import nn

from gramian.analysis.sketches import PrincipalComponents, Quantiles
from gramian.analysis.taps import Taps


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(values, share):
    ordered = values.sort(dim=0).values
    return ordered[int(share * (len(ordered) - 1))]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_within_the_relative_error(share):
    x = normal(500, 7) * torch.logspace(-4, 4, 7, dtype=torch.float64)
    layer, feature = Quantiles(), Quantiles("feature", relative_error=0.02)
    for batch in x.split(90):
        layer.update(batch)
        feature.update(batch)
    torch.testing.assert_close(layer.quantile(share), exact(x.abs().flatten(), share), rtol=0.0101, atol=0)
    torch.testing.assert_close(feature.quantile(share), exact(x.abs(), share), rtol=0.0202, atol=0)


def test_merging_is_exact_and_zeros_are_zero():
    x = normal(300, 4)
    x[:, 1] = 0
    whole, left, right = (Quantiles("feature") for _ in range(3))
    whole.update(x)
    left.merge(right)
    assert left.count == 0
    left.update(x[:100])
    right.update(x[100:])
    left.merge(right)
    for share in (0.2, 0.8):
        assert torch.equal(left.quantile(share), whole.quantile(share))
        assert left.quantile(share)[1] == 0
    assert left.count == 300
    assert left.nbytes == whole.nbytes == 4 * whole._bins * 8


def test_memory_does_not_grow():
    sketch = Quantiles()
    sketch.update(normal(10, 4).float())
    held = sketch.nbytes
    sketch.update(normal(5000, 4).float())
    assert sketch.nbytes == held < 20_000


def test_they_hang_on_taps():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU()).double()
    x = normal(40, 3, 6)
    mask = torch.ones(40, 3, dtype=torch.bool)
    mask[:, 2] = False
    with Taps(model, {"0": [PrincipalComponents(5), Quantiles()]}, side="in") as taps:
        taps.mask = mask
        for part in (0, 20):
            taps.mask = mask[part : part + 20]
            model(x[part : part + 20])
    components, sizes = taps["0"]
    seen = x[mask]
    _, s, vh = torch.linalg.svd(seen - seen.mean(0))
    torch.testing.assert_close(components.svd.singular_values, s[:5], rtol=0.05, atol=0)
    assert torch.linalg.svdvals(components.components @ vh.T)[-1] == pytest.approx(1)
    torch.testing.assert_close(sizes.quantile(0.5), exact(seen.abs().flatten(), 0.5), rtol=0.0101, atol=0)
    assert components.count == sizes.count == 80


def test_components_merge_and_pause():
    x = normal(90, 6)
    whole, left, right = (PrincipalComponents(6) for _ in range(3))
    whole.update(x)
    left.update(x[:30])
    right.update(x[30:])
    left.merge(right)
    torch.testing.assert_close(left.svd.singular_values, whole.svd.singular_values)
    left.paused = True
    left.update(x)
    assert left.count == 90


def test_bad_input():
    for settings, match in (
        ({"per": "token"}, "per="),
        ({"relative_error": 0.0}, "relative_error"),
        ({"smallest": 1.0, "largest": 0.5}, "smallest < largest"),
    ):
        with pytest.raises(ValueError, match=match):
            Quantiles(**settings)
    sketch = Quantiles("feature")
    with pytest.raises(ValueError, match="seen no sample"):
        sketch.quantile(0.5)
    with pytest.raises(ValueError, match="raise largest="):
        sketch.update(torch.tensor([[1e9]]))
    with pytest.raises(ValueError, match="NaN"):
        sketch.update(torch.tensor([[float("nan")]]))
    sketch.update(torch.ones(2, 3))
    with pytest.raises(ValueError, match="does not fit"):
        sketch.update(torch.ones(2, 4))
    with pytest.raises(ValueError, match="share=2"):
        sketch.quantile(2.0)
    with pytest.raises(ValueError, match="bins differ"):
        sketch.merge(Quantiles("layer"))
    with pytest.raises(TypeError, match="merges with its like"):
        PrincipalComponents(2).merge(sketch)
    with pytest.raises(ValueError, match="seen no sample"):
        PrincipalComponents(2).components  # noqa: B018
