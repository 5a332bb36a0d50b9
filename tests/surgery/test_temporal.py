import pytest
import torch
from torch import nn

from gramian.nn.sparse.delta import DeltaActivation, PerFrame
from gramian.surgery.temporal import to_delta_inference


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        PerFrame(nn.Linear(5, 6)), nn.ReLU(), DeltaActivation((6,)), PerFrame(nn.Linear(6, 4)), nn.Tanh(),
        DeltaActivation((4,), "neuron", 0.05), PerFrame(nn.Linear(4, 2)),
    )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
def test_a_stream_is_the_network_and_starts_anew(batch):
    model = network()
    x = torch.randn(batch, 20, 5, generator=torch.Generator().manual_seed(1))
    stream = to_delta_inference(model)
    with torch.no_grad():
        whole = model(x)
    for _ in range(2):
        stream.reset()
        steps = torch.stack([stream.step(x[:, t]) for t in range(20)], 1)
        assert torch.allclose(steps, whole, atol=1e-5)
    assert 0 < stream.macs < batch * 20 * (24 + 8)
    assert stream.nbytes == batch * 4 * (6 + 4 + 4 + 2)


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (nn.Sequential(DeltaActivation((4,)), PerFrame(nn.BatchNorm1d(4)), PerFrame(nn.Linear(4, 2))), ValueError),
        (nn.Sequential(DeltaActivation((4,)), nn.ReLU(), PerFrame(nn.Linear(4, 2))), ValueError),
        (nn.Sequential(PerFrame(nn.Linear(4, 2))), ValueError),
        (nn.Sequential(PerFrame(nn.Linear(4, 2)), DeltaActivation((2,))), ValueError),
        (nn.Sequential(PerFrame(nn.BatchNorm1d(4)), DeltaActivation((4,)), PerFrame(nn.Linear(4, 2))), TypeError),
    ],
)
def test_networks_that_do_not_stream(model, error):
    with pytest.raises(error):
        to_delta_inference(model)
