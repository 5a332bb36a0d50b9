"""Crops of a texture, and the same with a foreign patch: anomalies whose place is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

__all__ = ["TextureCrops", "texture_crops"]


@dataclass(frozen=True)
class TextureCrops:
    """Crops to learn what is normal from, and crops to test on.

    Attributes:
        train: normal crops.
        test: normal crops first, then anomalous ones.
        anomalous: which of the test crops hold a patch.
        corners: row and column of each patch's upper left corner in its crop, for the anomalous ones.
        patch: side of the patches.
    """

    train: UInt8[np.ndarray, "train size size *colours"]
    test: UInt8[np.ndarray, "test size size *colours"]
    anomalous: Bool[np.ndarray, " test"]
    corners: Int[np.ndarray, "bad 2"]
    patch: int


def texture_crops(
    texture: UInt8[np.ndarray, "height width *colours"],
    rng: np.random.Generator,
    *,
    foreign: UInt8[np.ndarray, "height2 width2 *other"] | None = None,
    train: int = 80,
    normal: int = 40,
    anomalous: int = 40,
    size: int = 128,
    patch: int = 28,
    train_share: float | None = None,
) -> TextureCrops:
    """Cut square crops at random; into some of the test crops a patch is pasted.

    Without `foreign` the patch is the crop's own: a square taken elsewhere in it and turned by 90 degrees, so
    that brightness and contrast stay and only the direction of the texture is wrong.

    Args:
        texture: the picture to cut from.
        rng: where all places come from; equal generators give equal crops.
        foreign: cut the patches out of this picture instead, not turned.
        train, normal, anomalous: how many crops of each kind.
        size: side of the crops.
        patch: side of the patches.
        train_share: keep the training crops in this left share of the picture and the test crops right of it,
            so that they have no pixel in common; by default both may come from anywhere, and overlap.

    Raises:
        ValueError: a picture too small for its crops or patches, counts below 1, or pictures of which one
            has colours and the other has none.
    """
    if min(train, normal, anomalous, patch) < 1:
        raise ValueError(f"{train=}, {normal=}, {anomalous=} and {patch=} must all be at least 1")
    height, width = texture.shape[:2]
    cut = None if train_share is None else round(train_share * width)
    left, right = ((0, width), (0, width)) if cut is None else ((0, cut), (cut, width))
    if size > height or size > min(left[1] - left[0], right[1] - right[0]):
        where = "" if cut is None else f", cut at column {cut},"
        raise ValueError(f"a picture of {height} × {width} pixels{where} holds no crops of {size}; take a smaller size")
    if patch > size or (foreign is not None and patch > min(foreign.shape[:2])):
        raise ValueError(f"a patch of {patch} pixels must fit into the crop ({size}) and the picture it is cut from")
    if foreign is not None and foreign.shape[2:] != texture.shape[2:]:
        raise ValueError(f"texture {texture.shape} and foreign {foreign.shape} differ in their colours")

    known = _crops(texture, rng, train, size, left)
    test = _crops(texture, rng, normal + anomalous, size, right)
    corners = rng.integers(0, size - patch + 1, size=(anomalous, 2))
    for crop, (row, column) in zip(test[normal:], corners):
        source = crop.copy() if foreign is None else foreign
        top, start = rng.integers(0, source.shape[0] - patch + 1), rng.integers(0, source.shape[1] - patch + 1)
        piece = source[top : top + patch, start : start + patch]
        crop[row : row + patch, column : column + patch] = np.rot90(piece) if foreign is None else piece
    return TextureCrops(known, test, np.arange(len(test)) >= normal, corners, patch)


def _crops(
    texture: np.ndarray, rng: np.random.Generator, count: int, size: int, columns: tuple[int, int]
) -> np.ndarray:
    rows = rng.integers(0, texture.shape[0] - size + 1, count)
    starts = rng.integers(columns[0], columns[1] - size + 1, count)
    return np.stack([texture[r : r + size, c : c + size] for r, c in zip(rows, starts)])
