import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian.surgery.adapters.svfit import SVFitLinear, attach_svfit, leading_rank, load_svfit, save_svfit


def linear(out_features=6, in_features=8, dtype=torch.float64, seed=0):
    layer = nn.Linear(in_features, out_features, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return layer


@pytest.mark.parametrize("shape", [(6, 8), (8, 6), (5, 5)])
@pytest.mark.parametrize("rank", [1, 3, None])
def test_it_is_the_residual_plus_the_scaled_leading_part(shape, rank):
    base, x = linear(*shape), torch.randn(4, 2, shape[1], dtype=torch.float64)
    layer = SVFitLinear(base, rank)
    assert torch.equal(layer(x), base(x))
    kept = rank or min(shape)
    u, s, vh = torch.linalg.svd(base.weight.detach(), full_matrices=False)
    new = s[:kept] * torch.linspace(0.5, 2, kept, dtype=torch.float64)
    with torch.no_grad():
        layer.s.copy_(new)
    residual = base.weight - (u[:, :kept] * s[:kept]) @ vh[:kept]
    expected = residual + (u[:, :kept] * new) @ vh[:kept]
    torch.testing.assert_close(layer.weight, expected)
    torch.testing.assert_close(layer(x), x @ expected.T + base.bias)
    torch.testing.assert_close(layer.merged()(x), layer(x))
    assert [n for n, p in layer.named_parameters() if not n.startswith("base")] == ["s"]


def test_gradients():
    layer = SVFitLinear(linear(), 3)
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, s: torch.func.functional_call(layer, {"s": s}, (x,)), (x, layer.s))


@settings(max_examples=20)
@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=12), st.floats(0.01, 1.0), st.sampled_from(["squares", "sum"])
)
def test_the_leading_rank_is_the_least_that_holds_the_share(values, energy, measure):
    s = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank = leading_rank(s, energy, measure)
    parts = s.square() if measure == "squares" else s
    assert parts[:rank].sum() >= energy * parts.sum() - 1e-9
    assert rank == 1 or parts[: rank - 1].sum() < energy * parts.sum() + 1e-9


def model():
    return nn.Sequential(linear(seed=1), nn.Tanh(), nn.Sequential(linear(6, 6, seed=2)), linear(3, 6, seed=3))


def trained():
    net = model()
    attach_svfit(net, ["0", "2.0"], energy=0.9)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.mul_(1.3)
    return net


def test_values_alone_are_saved_and_found_again(tmp_path):
    net, x = trained(), torch.randn(5, 8, dtype=torch.float64)
    expected, path = net(x), save_svfit(trained(), tmp_path / "deep" / "a.safetensors")
    from safetensors.torch import load_file

    assert {k: v.numel() for k, v in load_file(path).items()} == {"0.s": net[0].rank, "2.0.s": net[2][0].rank}
    other = model()
    before = other(x)
    attached = load_svfit(other, path)
    torch.testing.assert_close(other(x), expected)
    assert attached.num_trained == net[0].rank + net[2][0].rank
    attached.undo()
    assert torch.equal(other(x), before)
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(copied(x), expected)


def test_files_of_another_model_and_damaged_ones_are_refused(tmp_path):
    path = save_svfit(trained(), tmp_path / "a.safetensors")
    other = model()
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-9
    with pytest.raises(ValueError, match="0: its weight is not the one"):
        load_svfit(other, path)
    with pytest.raises(ValueError, match=r"'2\.0', no linear layer of this Sequential"):
        load_svfit(nn.Sequential(model()[0]), path)
    (tmp_path / "b").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_svfit(model(), tmp_path / "b")
    from gramian.optim.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "c", {"0.s": torch.ones(1)}, {"format": "other"})
    with pytest.raises(ValueError, match="not written by save_svfit"):
        load_svfit(model(), tmp_path / "c")
    with pytest.raises(ValueError, match="holds no SVFit"):
        save_svfit(model(), tmp_path / "d")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rank": 0}, "between 1 and 6"),
        ({"rank": 7}, "between 1 and 6"),
        ({"energy": 0.0}, "energy"),
        ({"energy": 1.1}, "energy"),
        ({"energy": 0.5, "measure": "cubes"}, "measure"),
        ({"rank": 2, "energy": 0.5}, "not both"),
    ],
)
def test_bad_settings(options, match):
    with pytest.raises(ValueError, match=match):
        SVFitLinear(linear(), **options)


def test_bad_bases():
    with pytest.raises(ValueError, match=r"\.float\(\)"):
        SVFitLinear(linear(dtype=torch.float16))
    with pytest.raises(TypeError, match="dequantize"):
        SVFitLinear(
            torch.ao.nn.quantized.dynamic.Linear(4, 4) if hasattr(torch.ao.nn, "quantized") else nn.Conv1d(1, 1, 1)
        )
