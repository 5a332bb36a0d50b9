import pytest
import torch

from gramian.data.synthetic.moving_digits import moving_digits


def test_every_frame_holds_the_image_and_moves_by_a_pixel_at_most():
    images = torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    video = moving_digits(images, 30, 9, torch.Generator().manual_seed(1))
    places = []
    for clip, image in zip(video, images, strict=True):
        for frame in clip:
            rows, columns = frame.nonzero().T
            top, left = int(rows.min()), int(columns.min())
            assert torch.equal(frame[top : top + 3, left : left + 4], image)
            assert int((frame != 0).sum()) == 12
            places.append((top, left))
    track = torch.tensor(places).view(20, 30, 2)
    moves = track.diff(dim=1)
    assert moves.abs().max() == 1
    assert (moves.abs().amax(2) == 1).all()  # none stands still
    assert track.amax((0, 1)).tolist() == [6, 5]
    assert track.amin((0, 1)).tolist() == [0, 0]


def test_held_frames_repeat():
    video = moving_digits(torch.ones(5, 2, 2), 7, 6, torch.Generator().manual_seed(0), hold=3)
    still = (video.diff(dim=1) == 0).flatten(2).all(2)
    assert still.tolist() == [[True, True, False, True, True, False]] * 5


@pytest.mark.parametrize("settings", [(0, 9, 1), (3, 4, 1), (3, 9, 0)])
def test_bad_settings(settings):
    frames, size, hold = settings
    with pytest.raises(ValueError, match="at least 1"):
        moving_digits(torch.ones(2, 4, 4), frames, size, torch.Generator(), hold)
