import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian.analysis.explain.cam import EigenCAM, GradCAM, box_from_map, eigen_cam, grad_cam

# what grad-cam 1.5.7 gives (its projection is neither cut at zero nor scaled) for the activations below
PEER = [
    [[-0.193255, -0.983965, 0.915424], [-0.139568, -0.284499, 0.969111], [-1.075232, -0.230812, 1.022798]],
    [[-0.925932, 0.499655, 1.196328], [-0.824078, 0.60151, 0.148796], [-0.722222, 1.023174, -0.997231]],
]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


@settings(max_examples=12)
@given(
    channels=st.integers(1, 9), height=st.integers(2, 5), width=st.integers(2, 5), center=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_map_is_the_projection_on_the_first_singular_vector(channels, height, width, center, seed):
    a = normal(2, channels, height, width, seed=seed)
    rows = a.flatten(2).mT
    lengths = rows.norm(dim=-1)
    rows = rows - rows.mean(1, keepdim=True) if center else rows
    _, s, vt = torch.linalg.svd(rows, full_matrices=False)
    wanted = (rows @ vt[:, 0, :, None]).squeeze(-1)
    wanted = torch.where((wanted * lengths).sum(1, keepdim=True) < 0, -wanted, wanted).clamp(min=0)
    if s.shape[1] > 1 and bool((s[:, 0] < 1.01 * s[:, 1]).any()):
        return  # two directions of nearly the same length: neither is the first
    torch.testing.assert_close(
        eigen_cam(a, center=center).flatten(1), wanted / wanted.amax(1, keepdim=True), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("center", [False, True])
def test_map_does_not_change_when_channels_are_mixed_scaled_or_negated(center):
    a = normal(3, 8, 5, 4)
    mixing = torch.linalg.qr(normal(8, 8, seed=1)).Q
    wanted = eigen_cam(a, center=center)
    for other in (torch.einsum("cd,bdhw->bchw", mixing, a), 7.5 * a, -a):
        torch.testing.assert_close(eigen_cam(other, center=center), wanted, atol=1e-9, rtol=0)


def test_centred_map_is_that_of_grad_cam():
    i = torch.arange(2 * 4 * 3 * 3, dtype=torch.float64)
    a = ((i * 37 % 101) / 50 - 0.7).view(2, 4, 3, 3)
    peer = torch.tensor(PEER, dtype=torch.float64)
    found = eigen_cam(a, center=True)
    for heat, theirs in zip(found, peer):
        both = [t.clamp(min=0) / t.clamp(min=0).max() for t in (theirs, -theirs)]
        assert min(float((heat - t).abs().max()) for t in both) < 1e-5


def test_dtype_and_size_are_kept():
    a = normal(1, 5, 4, 6, dtype=torch.float32).half()
    heat = eigen_cam(a, size=(8, 12))
    assert heat.dtype == torch.float16
    assert heat.shape == (1, 8, 12)
    assert float(heat.min()) >= 0
    assert float(heat.max()) <= 1


@pytest.mark.parametrize(
    ("a", "center", "word"),
    [
        (torch.zeros(1, 3, 4, 4), False, "zero at all places"),
        (torch.ones(1, 3, 4, 4) * torch.arange(3.0).view(1, 3, 1, 1), True, "equal at all places"),
        (torch.full((1, 3, 4, 4), float("nan")), False, "NaN"),
    ],
)
def test_activations_without_a_map_are_refused(a, center, word):
    with pytest.raises(ValueError, match=word):
        eigen_cam(a, center=center)


def test_a_layer_that_is_missing_flat_or_runs_twice_is_refused():
    model = Small()
    with pytest.raises(ValueError, match="no layer 'body'"):
        EigenCAM(model, "body")
    with pytest.raises(ValueError, match=r"\(batch, channels, height, width\) is needed"):
        EigenCAM(model, "head")(torch.rand(1, 3, 4, 4))
    twice = nn.Sequential(model.features[0], nn.Conv2d(6, 6, 1), nn.ReLU())
    twice.append(twice[1])
    with pytest.raises(ValueError, match="ran 2 times"):
        EigenCAM(twice, "1")(torch.rand(1, 3, 4, 4))


def test_maps_of_a_network_are_those_of_its_activations_and_it_is_left_as_found():
    model = Small().train()
    for p in model.parameters():
        p.requires_grad_(False)
    x = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(EigenCAM(model, "features")(x), eigen_cam(model.features(x)))
    found = GradCAM(model, "features")(x, torch.tensor([3, 1]))
    # behind the layer there is only a mean and a linear map: its gradient is known
    weights = (model.head.weight[[3, 1]] / 36).view(2, 6, 1, 1)
    a = model.features(x)
    torch.testing.assert_close(found, grad_cam(a, weights.expand_as(a)))
    assert model.training
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not model.features._forward_hooks


def test_grad_cam_by_hand_and_where_nothing_speaks_for_the_class():
    a = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]])
    gradients = torch.tensor([[[[1.0, 3.0]], [[-1.0, 0.0]]]])
    torch.testing.assert_close(grad_cam(a, gradients), torch.tensor([[[1.0, 1.0]]]))
    torch.testing.assert_close(grad_cam(a, -gradients.abs()), torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="NaN"):
        grad_cam(a / 0, gradients)


def test_box_frames_the_largest_region():
    heat = torch.zeros(6, 7)
    heat[0, 0] = 1.0
    heat[3:5, 2:6] = 0.6
    assert box_from_map(heat, 0.5) == (3, 2, 5, 6)
    assert box_from_map(heat, 0.7) == (0, 0, 1, 1)
    with pytest.raises(ValueError, match="no positive value"):
        box_from_map(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        box_from_map(heat, 0.0)
