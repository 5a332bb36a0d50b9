import numpy as np
import pytest

from gramian.data.synthetic.texture_anomalies import texture_crops


def texture(height=80, width=120):
    return np.arange(height * width, dtype=np.uint32).reshape(height, width).astype(np.uint8)


def unique_texture(height=60, width=100):
    """Every column has a value of its own, every row keeps it: a crop tells where it was cut."""
    return np.tile(np.arange(width, dtype=np.uint8), (height, 1))


COUNTS = {"train": 7, "normal": 5, "anomalous": 6, "size": 32, "patch": 8}


def test_shapes_labels_and_seeds():
    first, same, other = (texture_crops(texture(), np.random.default_rng(s), **COUNTS) for s in (0, 0, 1))
    assert first.train.shape == (7, 32, 32)
    assert first.test.shape == (11, 32, 32)
    assert first.anomalous.tolist() == [False] * 5 + [True] * 6
    np.testing.assert_array_equal(first.test, same.test)
    assert (first.test != other.test).any()


def test_a_turned_patch_is_a_piece_of_the_crop_and_nothing_else_changes():
    crops = texture_crops(unique_texture(), np.random.default_rng(0), **COUNTS)
    for crop, (row, column) in zip(crops.test[crops.anomalous], crops.corners):
        patch = crop[row : row + 8, column : column + 8]
        assert (np.diff(patch.astype(int), axis=0) == -1).all()  # what grew along rows grows upwards: turned by 90°
        assert (np.diff(patch.astype(int), axis=1) == 0).all()
        start = int(crop[0, 0]) if row > 0 else int(crop[-1, 0])
        assert set(patch.ravel()) <= set(range(start, start + 32))
        rest = crop.copy()
        rest[row : row + 8, column : column + 8] = np.arange(start + column, start + column + 8)
        np.testing.assert_array_equal(rest, np.tile(np.arange(start, start + 32), (32, 1)))


def test_a_foreign_patch_is_pasted_as_it_is():
    crops = texture_crops(unique_texture(), np.random.default_rng(0), foreign=np.full((9, 9), 255, np.uint8), **COUNTS)
    for crop, (row, column) in zip(crops.test[crops.anomalous], crops.corners):
        assert (crop == 255).sum() == 64
        assert (crop[row : row + 8, column : column + 8] == 255).all()
    assert not (crops.test[~crops.anomalous] == 255).any()


def test_a_share_keeps_training_and_test_apart():
    crops = texture_crops(unique_texture(), np.random.default_rng(0), train_share=0.5, **COUNTS)
    assert crops.train.max() < 50 <= crops.test.min()


def test_colours_stay():
    picture = np.stack([texture(), texture() // 2, texture() // 3], axis=2)
    assert texture_crops(picture, np.random.default_rng(0), **COUNTS).test.shape == (11, 32, 32, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 90}, "80 × 120 pixels holds no crops of 90"),
        ({"train_share": 0.9}, "cut at column 108, holds no crops of 32"),
        ({"patch": 40}, "a patch of 40 pixels"),
        ({"anomalous": 0}, "anomalous=0"),
        ({"foreign": np.zeros((50, 50, 3), np.uint8)}, "differ in their colours"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        texture_crops(texture(), np.random.default_rng(0), **{**COUNTS, **change})
