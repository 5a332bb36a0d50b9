import pytest
import torch
from torch import nn

from gramian.nn.fold import fold_batch_norm


class Block(nn.Module):
    """A residual block whose names say nothing about what feeds what."""

    def __init__(self, *, affine=True, shared=False):
        super().__init__()
        self.b = nn.BatchNorm2d(4, affine=affine)
        self.first = nn.BatchNorm2d(3)
        self.a = nn.Conv2d(3, 4, 3, padding=1, groups=1, bias=False)
        self.c = nn.Conv2d(4, 4, 1)
        self.d = nn.BatchNorm2d(4)
        self.shared = shared

    def forward(self, x):
        h = self.a(self.first(x))
        y = self.b(h).relu()
        return (h if self.shared else y) + self.d(self.c(y))


class Two(nn.Linear):
    def forward(self, x):
        return x, x


def drawn(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            low = 0.5 if name.endswith("var") else -1.0
            tensor.data.uniform_(low, 1.5, generator=generator)
    return model.double().eval()


@pytest.mark.parametrize("affine", [True, False])
def test_the_copy_answers_alike_without_its_normalizations(affine):
    model = drawn(Block(affine=affine))
    x, other = torch.rand(2, 3, 5, 5).double(), torch.randn(1, 3, 7, 6).double()
    folded = fold_batch_norm(model, x)
    torch.testing.assert_close(folded(other), model(other))
    kinds = [type(getattr(folded, n)) for n in ("b", "d", "first")]
    assert kinds == [nn.Identity, nn.Identity, nn.BatchNorm2d]  # no layer feeds the one that reads the input
    assert folded.a.bias is not None
    assert model.a.bias is None


def test_linear_layers_fold_and_the_model_is_left_as_found():
    model = drawn(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))).train()
    folded = fold_batch_norm(model, torch.rand(2, 3).double())
    assert isinstance(folded[1], nn.Identity)
    assert model.training
    assert not folded.training
    assert not model[0]._forward_hooks
    model.eval()
    x = torch.randn(5, 3).double()
    torch.testing.assert_close(folded(x), model(x))


def test_an_output_that_is_used_elsewhere_is_refused():
    with pytest.raises(ValueError, match="used elsewhere too"):
        fold_batch_norm(drawn(Block(shared=True)), torch.rand(1, 3, 4, 4).double())
    with pytest.raises(ValueError, match="returns a tuple"):
        fold_batch_norm(Two(2, 2), torch.rand(1, 2))


def test_a_layer_that_runs_twice_keeps_its_normalization():
    layer = nn.Linear(3, 3)
    model = drawn(nn.Sequential(layer, nn.BatchNorm1d(3), layer))
    folded = fold_batch_norm(model, torch.rand(2, 3).double())
    assert isinstance(folded[1], nn.BatchNorm1d)
