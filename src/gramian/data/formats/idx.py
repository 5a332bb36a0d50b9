"""The IDX format of MNIST: a magic number with type and dimensions, the sizes, then the values."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

_UINT8 = 0x08


def read_idx(path: Path) -> UInt8[np.ndarray, "*sizes"]:
    """Read an IDX file of unsigned bytes, gzipped or not; uint8 of the shape that the file names.

    Raises:
        ValueError: not an IDX file of bytes, or cut off.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        raw = file.read()
    if len(raw) < 4 or raw[:3] != bytes([0, 0, _UINT8]):
        raise ValueError(f"{path} is not an IDX file of bytes: it starts with {raw[:4].hex()}")
    sizes = np.frombuffer(raw, dtype=">u4", count=raw[3], offset=4).astype(int)
    values = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * raw[3])
    if values.size != sizes.prod():
        raise ValueError(f"{path} is cut off: {values.size} values, {'x'.join(map(str, sizes))} expected")
    return values.reshape(sizes)
