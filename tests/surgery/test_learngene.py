import pytest
import torch

from gramian.models.generative.dit import DiT
from gramian.surgery import learngene

SMALL = {"size": 8, "channels": 1, "patch": 4, "width": 16, "depth": 1, "heads": 2}


def build(classes, seed=0, common=3):
    torch.manual_seed(seed)
    model = DiT(**SMALL, classes=classes, common=common, per_class=2)
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=g)
    return model


def noisy():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(5)), torch.tensor([0, 3, 30, 60])


def test_the_learngenes_answer_as_before_and_tailors_are_new():
    old = build(5)
    new = learngene.expand(learngene.extract(old), lambda: build(2, seed=1), classless=("label.weight",))
    x, t = noisy()
    torch.testing.assert_close(new(x, t), old(x, t))
    fresh = build(2, seed=1)
    for name, layer in learngene.gated_layers(new).items():
        assert torch.equal(layer.up[:, 3:], fresh.get_submodule(name).up[:, 3:])
    assert torch.equal(new.label.weight, fresh.label.weight)


def test_only_tailors_and_what_is_named_are_trained():
    model = build(2)
    count = learngene.train_only(model, ("label",))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    x, t = noisy()
    tuner = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    for _ in range(2):
        model(x, t, torch.tensor([0, 1, 0, 1])).square().sum().backward()
        tuner.step()
    moved = sum(int((p != before[n]).sum()) for n, p in model.named_parameters())
    assert moved == count
    for layer in learngene.gated_layers(model).values():
        assert layer.scale.detach().ne(before["blocks.0.up.scale"][:1]).any()


def test_bad_input_is_refused():
    kept = learngene.extract(build(5))
    with pytest.raises(ValueError, match="room for"):
        learngene.expand(kept, lambda: build(2, common=4), classless=("label.weight",))
    with pytest.raises(ValueError, match="label"):
        learngene.expand(kept, lambda: build(2))
    with pytest.raises(ValueError, match="no layer"):
        learngene.extract(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="begins with"):
        learngene.train_only(build(2), ("nothing",))
