import pytest
import torch
from torch import nn

from gramian.analysis import Covariance, Keep, Moments, Reservoir, Taps, ZeroCount


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(3, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 5), nn.Tanh()), nn.Linear(5, 2)
    ).double()


def inputs(n=40, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sizes", [(40,), (1, 39), (13, 13, 14)])
def test_streaming_is_the_batch_result_however_it_is_cut(sizes):
    model, x = network(), inputs()
    with Taps(model, {"1": [Moments(), Covariance(), ZeroCount(), Keep()]}) as taps:
        for part in x.split(sizes):
            model(part)
    h = model[1](model[0](x)).detach()
    moments, covariance, zeros, keep = taps["1"]
    assert torch.allclose(moments.mean, h.mean(0), rtol=1e-10)
    assert torch.allclose(moments.variance, h.var(0, correction=0), rtol=1e-10)
    assert torch.allclose(covariance.covariance, torch.cov(h.T, correction=0), rtol=1e-8, atol=1e-12)
    assert torch.allclose(covariance.second_moment, h.T @ h / len(h), rtol=1e-8)
    assert torch.equal(zeros.sparsity, (h == 0).double().mean(0))
    assert torch.equal(keep.rows, h)
    assert {r.count for r in taps["1"]} == {40}


def test_shards_merge_to_the_whole():
    x = inputs()
    for make in (Moments, Covariance, ZeroCount, Keep):
        whole, left, right = make(), make(), make()
        whole.update(x)
        left.update(x[:11])
        right.update(x[11:])
        left.merge(right)
        left.merge(make())
        for name in ("mean", "covariance", "variance", "sparsity", "rows"):
            if hasattr(make, name):
                assert torch.allclose(getattr(left, name), getattr(whole, name), rtol=1e-10), (make, name)
    with pytest.raises(TypeError, match="merges with its like"):
        Moments().merge(Keep())
    with pytest.raises(ValueError, match="thresholds differ"):
        ZeroCount(0.1).merge(ZeroCount(0.2))


def test_a_reservoir_is_uniform_bounded_and_mergeable():
    counts = torch.zeros(20)
    for seed in range(400):
        reservoir = Reservoir(5, torch.Generator().manual_seed(seed))
        other = Reservoir(5, torch.Generator().manual_seed(seed + 10_000))
        reservoir.update(torch.arange(0.0, 7.0).unsqueeze(1))
        reservoir.update(torch.arange(7.0, 12.0).unsqueeze(1))
        other.update(torch.arange(12.0, 20.0).unsqueeze(1))
        reservoir.merge(other)
        assert len(reservoir.rows) == 5
        counts[reservoir.rows.flatten().long()] += 1
    expected = 400 * 5 / 20
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 43.8  # chi-square with 19 degrees of freedom, p = .001
    assert reservoir.count == 20


def test_memory_does_not_grow_with_the_stream():
    model = network()
    with Taps(model, {"0": [Covariance(), Reservoir(4)]}) as taps:
        model(inputs(50))
        small = taps.nbytes
        for _ in range(10):
            model(inputs(50))
        assert taps.nbytes == small
    with (
        pytest.raises(MemoryError, match="max_bytes=1000"),
        Taps(model, {"*": [Keep()]}, max_bytes=1000),
    ):
        model(inputs(500))
    assert not any(m._forward_hooks for m in model.modules()), "the hooks are gone after an error"


def test_sides_and_patterns():
    model, x = network(), inputs()
    with Taps(model, {"2.*": [Keep()], "": [Keep()]}, side="in") as taps:
        model(x)
    assert sorted(taps) == ["", "2.0", "2.1"]
    assert torch.equal(taps[""][0].rows, x)
    assert torch.equal(taps["2.0"][0].rows, model[1](model[0](x)).detach())
    with Taps(model, {"3": [Keep()]}, side="grad") as taps:
        model(x).square().sum().backward()
    assert torch.allclose(taps["3"][0].rows, 2 * model(x).detach())
    with pytest.raises(KeyError, match="tapped are 3"):
        taps["4"]


def test_how_tensors_become_features():
    identity = nn.Identity()
    tokens = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])

    def kept(x, reduce, mask=None):
        with Taps(identity, {"": [Keep()]}, reduce=reduce) as taps:
            taps.mask = mask
            identity(x)
        return taps[""][0].rows

    assert kept(tokens, "tokens").shape == (8, 3)
    assert torch.equal(kept(tokens, "tokens", mask), torch.cat((tokens[0, :2], tokens[1])))
    assert torch.allclose(kept(tokens, "mean", mask), torch.stack((tokens[0, :2].mean(0), tokens[1].mean(0))))
    assert torch.allclose(kept(tokens, "mean"), tokens.mean(1))
    images = torch.randn(2, 3, 5, 5)
    assert torch.allclose(kept(images, "gap"), images.mean((2, 3)))
    assert kept(images, "none").shape == (2, 75)
    with pytest.raises(ValueError, match="the mask has shape"):
        kept(tokens, "tokens", mask[:, :2])
    with pytest.raises(ValueError, match="got shape"):
        kept(torch.randn(3), "tokens")


class Strange(nn.Module):
    """Returns a dictionary that holds a tuple's worth of things, and is called twice."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x, *, scale=1.0):
        return {"note": "text", "states": self.inner(self.inner(x)) * scale, "more": (x, None)}


def test_tuples_dictionaries_and_repeated_calls():
    model, x = Strange().double(), inputs()
    with Taps(model, {"": [Keep()], "inner": [Keep()]}) as taps:
        out = model(x, scale=2.0)["states"]
    assert torch.equal(taps[""][0].rows, out.detach())
    assert taps["inner"][0].count == 80
    with Taps(model, {"": [Keep()]}, side="in", part=None) as taps:
        model(x=x)
    assert torch.equal(taps[""][0].rows, x)
    with pytest.raises(TypeError, match="no tensor to tap"), Taps(model, {"": [Keep()]}, part="note"):
        model(x)


def test_write_mode_puts_another_tensor_in_place():
    model, x = network(), inputs()
    with Taps(model, {"1": lambda h: h * 0}, mode="write"):
        silent = model(x)
    assert torch.equal(silent, model[3](model[2](torch.zeros(40, 5, dtype=torch.float64))))
    with Taps(model, {"3": lambda h: h + 1}, mode="write", side="in"):
        shifted = model(x)
    assert torch.allclose(shifted, model[3](model[2](model[1](model[0](x))) + 1))
    strange = Strange().double()
    with Taps(strange, {"": torch.zeros_like}, mode="write"):
        assert torch.equal(strange(x)["states"], torch.zeros(40, 3, dtype=torch.float64))


def test_wrong_wishes_are_explained():
    with pytest.raises(ValueError, match=r"no module matches 'layers\.\*'; modules are named like 0, 1, 2"):
        Taps(network(), {"layers.*": [Keep()]})
    with pytest.raises(ValueError, match="write mode"):
        Taps(network(), {"0": lambda x: x}, mode="write", side="grad")
    with pytest.raises(ValueError, match="seen no sample"):
        Moments().mean  # noqa: B018
    with pytest.raises(ValueError, match="at least one row"):
        Reservoir(0)
