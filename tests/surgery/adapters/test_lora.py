"""LoRA layers: their starts, their factors, merging, and the models that they cannot stand in."""

import copy
import pickle

import pytest
import torch
from torch import nn

from gramian.surgery.adapters.apply import adapters, attach, attach_lora
from gramian.surgery.adapters.lora import INITS, LoRALinear, draw
from gramian.surgery.swap import swap


def linear(out_features=6, in_features=8, bias=True, dtype=torch.float64, seed=0):
    layer = nn.Linear(in_features, out_features, bias=bias, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return layer


def trained(layer, seed=1):
    """An adapter somewhere else than at its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.trained().values():
            p.add_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return layer


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("train", ["AB", "B", "A"])
def test_it_starts_as_the_base_and_is_then_w_plus_scaled_ba(init, train):
    base, x = linear(), torch.randn(5, 3, 8, dtype=torch.float64)
    layer = LoRALinear(base, 3, alpha=6, train=train, init=init)
    assert torch.equal(layer(x), base(x)) or (init == "svd" and torch.allclose(layer(x), base(x), atol=1e-12))
    trained(layer)
    start = 0 if layer.A0 is None else layer.B0 @ layer.A0
    dense = base.weight + 2 * (layer.B @ layer.A - start)
    expected = x @ dense.T + base.bias
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.weight, dense)
    A, B = layer.factors()
    torch.testing.assert_close(2 * B @ A, layer.delta().detach())
    assert {n for n, p in layer.own().items() if p.requires_grad} == set(train)


def test_svd_starts_at_the_principal_part():
    base = linear()
    layer = LoRALinear(base, 2, alpha=5, init="svd")
    u, s, vh = torch.linalg.svd(base.weight)
    torch.testing.assert_close(layer.scaling * (layer.B @ layer.A), (u[:, :2] * s[:2]) @ vh[:2])


def test_starts_have_the_laws_they_are_named_after():
    generator = torch.Generator().manual_seed(0)
    q = draw("orthonormal", 5, 40, generator)
    torch.testing.assert_close(q @ q.T, torch.eye(5), atol=1e-5, rtol=0)
    assert draw("kaiming", 4, 400, generator).abs().max() <= 0.05
    assert draw("rademacher", 4, 50, generator).unique().tolist() == [-0.5, 0.5]
    assert draw("gaussian", 16, 4000, generator).std() == pytest.approx(0.25, rel=0.02)


def test_the_gradient_is_right():
    base = linear()
    layer = trained(LoRALinear(base, 2, alpha=3, init="svd"))
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)

    def output(x, A, B):
        return torch.func.functional_call(layer, {"A": A, "B": B}, (x,))

    assert torch.autograd.gradcheck(output, (x, layer.A, layer.B))


def test_merging_and_taking_apart():
    base, x = linear(), torch.randn(5, 8, dtype=torch.float64)
    layer, bits = trained(LoRALinear(base, 3)), base.weight.clone()
    apart = layer(x)
    layer.merge()
    assert layer.is_merged
    torch.testing.assert_close(layer(x), apart)
    base.requires_grad_(False)
    assert not layer(x).requires_grad
    layer.unmerge()
    assert torch.equal(layer(x), apart)
    plain = layer.merged()
    assert type(plain) is nn.Linear
    torch.testing.assert_close(plain(x), apart)
    assert torch.equal(base.weight, bits)
    assert plain.weight is not base.weight


def test_dropout_falls_on_the_branch_in_training_only():
    layer, x = trained(LoRALinear(linear(), 3, dropout=0.5)), torch.ones(64, 8, dtype=torch.float64)
    assert torch.equal(layer.eval()(x)[0], layer(x)[1])
    assert not torch.equal(layer.train()(x)[0], layer(x)[1])


def test_half_precision_bases_get_float32_factors():
    base = linear(dtype=torch.bfloat16)
    layer, x = trained(LoRALinear(base, 2)), torch.randn(3, 8, dtype=torch.bfloat16)
    assert layer.A.dtype == torch.float32
    assert layer(x).dtype == torch.bfloat16
    assert layer.merged().weight.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"float32.*\.float\(\)"):
        LoRALinear(base, 2, init="svd")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rank": 0}, "between 1 and 6"),
        ({"rank": 7}, "between 1 and 6"),
        ({"train": "BA"}, "train='BA'"),
        ({"init": "zero"}, "init='zero'"),
        ({"dropout": 1.0}, "dropout"),
        ({"alpha": 0}, "alpha"),
    ],
)
def test_bad_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        LoRALinear(linear(), **{"rank": 2, **settings})


def test_bases_that_cannot_carry_an_adapter():
    with pytest.raises(TypeError, match=r"nn\.Linear, not a Conv2d"):
        LoRALinear(nn.Conv2d(2, 2, 1), 1)
    with pytest.raises(ValueError, match="meta device"):
        LoRALinear(nn.Linear(4, 4, device="meta"), 1)
    broken = linear()
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        LoRALinear(broken, 1)
    quantized = nn.Linear(4, 4)
    quantized.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match="dequantize"):
        LoRALinear(quantized, 1)


class Tied(nn.Module):
    """An embedding whose matrix is also the output layer's."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 8)))
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.body(self.embedding(ids)))


def test_attaching_freezes_the_rest_counts_and_undoes_itself():
    model, ids = Tied(), torch.arange(10)
    model.body[0].bias.requires_grad_(False)
    before, state = model(ids), copy.deepcopy(model.state_dict())
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    with attach_lora(model, ["body.*", "head"], rank=2, ranks={"body.2.0": 0, "head": 3}) as attached:
        assert attached.names == ("body.0", "head")
        assert attached.num_trained == 2 * 16 + 3 * 18
        assert attached.num_parameters == sum(p.numel() for p in model.parameters())
        assert {n for n, p in model.named_parameters() if p.requires_grad} == set(attached.parameters())
        assert model.head.base.weight is model.embedding.weight
        for layer in adapters(model).values():
            trained(layer)
        changed = model(ids)
        assert not torch.allclose(changed, before)
        attached.merge()
        torch.testing.assert_close(model(ids), changed)
        assert model.head.weight is not model.embedding.weight
        assert torch.equal(model.embedding.weight, state["embedding.weight"])
        assert {n: p.requires_grad for n, p in model.named_parameters()}["body.0.weight"]
    assert torch.equal(model(ids), before)
    assert model.head.weight is model.embedding.weight
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_adapted_models_copy_and_pickle():
    model, ids = Tied(), torch.arange(10)
    attach_lora(model, ["body.0", "head"], rank=2, init="svd")
    for layer in adapters(model).values():
        trained(layer)
    expected = model(ids)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(ids), expected)
        assert other.head.base.weight is other.embedding.weight
        assert list(adapters(other)) == ["body.0", "head"]
    other = Tied()
    attach_lora(other, ["body.0", "head"], rank=2, init="svd")
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(ids), expected)


def test_a_head_stays_trainable_and_mistakes_raise():
    model = Tied()
    attach_lora(model, "body.0", rank=1, keep="body.2")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "body.0.A", "body.0.B", "body.2.0.weight", "body.2.0.bias"
    }  # fmt: skip
    with pytest.raises(ValueError, match="nothing to train"):
        attach_lora(Tied(), "body.0", ranks={"body.0": 0})
    with pytest.raises(ValueError, match="no layer matches decoder"):
        attach_lora(Tied(), "decoder.*")
    with pytest.raises(TypeError, match="expected an Adapter, got a Identity"):
        attach(Tied(), "body.0", lambda name, layer: nn.Identity())


def test_a_model_on_the_meta_device_is_refused_by_the_swap():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="0 is on the meta device"):
        swap(model, "0", lambda name, layer: nn.Identity())
    assert isinstance(model[0], nn.Linear)
