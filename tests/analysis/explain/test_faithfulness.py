"""Curves of deletion and insertion on networks whose answer is known, and occlusion against its definition."""

import pytest
import torch
from torch import nn

from gramian.analysis.explain import faithfulness


class Corner(nn.Module):
    """Two classes; the first one's score is the sum over the upper left quarter."""

    def forward(self, x):
        score = x[:, :, : x.shape[2] // 2, : x.shape[3] // 2].sum((1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.fixture
def picture():
    return torch.full((1, 3, 16, 16), 0.05)


def test_a_map_of_what_counts_beats_its_opposite(picture):
    heat = torch.zeros(1, 16, 16)
    heat[:, :8, :8] = 1
    label = torch.tensor([0])
    nothing = torch.zeros_like(picture)
    good = faithfulness.deletion_insertion(Corner(), picture, heat, label, points=8, without=nothing)
    bad = faithfulness.deletion_insertion(Corner(), picture, -heat, label, points=8, without=nothing)
    assert good.deletion.shape == good.insertion.shape == (1, 9)
    # the quarter is gone after two of eight steps, and half of the probability with it
    assert good.deletion[0, 2:].allclose(torch.tensor(0.5))
    assert good.insertion[0, 2:].allclose(good.deletion[0, 0])
    assert float(good.deletion_area) < float(bad.deletion_area) - 0.3
    assert float(good.insertion_area) > float(bad.insertion_area) + 0.3
    # both ends are the whole picture and nothing of it
    assert good.deletion[0, 0] == bad.deletion[0, 0] == good.insertion[0, -1]
    assert good.deletion[0, -1] == good.insertion[0, 0]


def test_what_is_taken_away_is_blurred_by_default_and_a_blur_keeps_the_mean():
    x = torch.rand(2, 3, 40, 30)
    soft = faithfulness.blurred(x, sigma=3.0)
    assert soft.shape == x.shape
    assert float((soft.mean((2, 3)) - x.mean((2, 3))).abs().max()) < 0.02
    assert float(soft.var(dim=(2, 3)).max()) < 0.1 * float(x.var(dim=(2, 3)).min())
    flat = torch.full((1, 1, 9, 9), 0.3)
    assert torch.allclose(faithfulness.blurred(flat), flat)
    curves = faithfulness.deletion_insertion(Corner(), flat, torch.rand(1, 9, 9), torch.tensor([0]), points=3)
    assert torch.allclose(curves.deletion, curves.insertion)  # a flat picture is its own blur


def test_occlusion_falls_only_where_the_square_covers_what_counts(picture):
    heat = faithfulness.occlusion_map(Corner(), picture, torch.tensor([0]), side=4, stride=4)
    assert torch.allclose(heat[0, :8, :8], torch.tensor(3 * 16 * 0.05))
    assert not heat[0, 8:].any()
    assert not heat[0, :, 8:].any()
    uneven = faithfulness.occlusion_map(Corner(), picture, torch.tensor([0]), side=6, stride=5)
    assert torch.isfinite(uneven).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: faithfulness.deletion_insertion(Corner(), x, torch.zeros(1, 4, 4), torch.tensor([0])), "size|type"),
        (
            lambda x: faithfulness.deletion_insertion(
                Corner(), x, torch.full((1, 16, 16), torch.nan), torch.tensor([0])
            ),
            "NaN",
        ),
        (
            lambda x: faithfulness.deletion_insertion(Corner(), x, torch.zeros(1, 16, 16), torch.tensor([0]), points=0),
            "at least one step",
        ),
        (lambda x: faithfulness.occlusion_map(Corner(), x, torch.tensor([0]), side=20), "stride"),
        (lambda x: faithfulness.occlusion_map(Corner(), x, torch.tensor([0]), side=4, stride=5), "stride"),
    ],
)
def test_bad_input(call, match, picture):
    with pytest.raises((ValueError, TypeError), match=match):
        call(picture)
