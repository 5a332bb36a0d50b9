import pytest
import torch
from torch import nn

from gramian.nn.sparse.delta import DeltaActivation, DeltaConv2d, DeltaLinear, PerFrame


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("level", "size"), [("layer", 1), ("channel", 4), ("neuron", 24)])
def test_rounding_penalty_and_counts(level, size):
    layer = DeltaActivation((4, 2, 3), level, init=-0.3, rate=2.0, fan_out=5)
    x = normal(2, 6, 4, 2, 3)
    z = layer(x)
    assert layer.threshold.numel() == size
    assert (z - x).abs().max() <= 0.15 + 1e-6
    assert torch.allclose(z / 0.3, (z / 0.3).round(), atol=1e-5)
    changes = z[:, 1:] - z[:, :-1]
    assert torch.allclose(layer.penalty, 10 * changes.abs().mean())
    expected = (int((changes != 0).sum()) + int((z[:, 0] != 0).sum())) / z.numel()
    assert layer.density == pytest.approx(expected)


def test_the_penalty_grows_the_steps():
    layer = DeltaActivation((4,), "layer", init=0.1, rate=1.0)
    layer(normal(3, 8, 4))
    layer.penalty.backward()
    assert float(layer.threshold.grad) < 0  # descent adds to it


@pytest.mark.parametrize("batch", [1, 2])
def test_a_linear_layer_accumulates(batch):
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 3), normal(5, batch, 6).round()
    stream = DeltaLinear(layer)
    with torch.no_grad():
        before = torch.zeros(batch, 6)
        for frame in x:
            assert torch.allclose(stream(frame - before), layer(frame), atol=1e-5)
            before = frame
    changes = torch.cat([x[:1], x.diff(dim=0)])
    assert stream.macs == int(changes.count_nonzero()) * 3
    stream.reset()
    assert (stream.macs, stream.nbytes) == (0, 0)


def test_a_convolution_accumulates_and_counts_its_products():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, padding=1)
    stream, frame = DeltaConv2d(layer), torch.ones(1, 2, 5, 5)
    with torch.no_grad():
        assert torch.allclose(stream(frame), layer(frame), atol=1e-6)
        everything = stream.macs
        assert torch.allclose(stream(torch.zeros_like(frame)), layer(frame), atol=1e-6)
    assert stream.macs == everything == 4 * 2 * (3 * 5 - 2) ** 2
    assert stream.nbytes == 4 * 25 * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DeltaActivation((2,), "pixel"), "level"),
        (lambda: DeltaActivation((2,), init=0), "init"),
        (lambda: DeltaActivation((2,), rate=-1.0), "rate"),
        (lambda: DeltaActivation((2,))(torch.ones(3, 2)), "time"),
        (lambda: DeltaActivation((2,)).density, "called"),
        (lambda: PerFrame(nn.Linear(2, 2))(torch.ones(3, 2)), "time axis"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_step_that_became_zero_is_reported():
    layer = DeltaActivation((2,))
    nn.init.zeros_(layer.threshold)
    with pytest.raises(ValueError, match="threshold is 0"):
        layer(torch.ones(1, 2, 2))
