"""Products of floating-point rows with matrices of signs that are kept in one bit each."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gramian.linalg.factor.quant.binary import BITS, unpack_signs
from gramian.linalg.factor.quant.bit_products_kernels import float_sign_products
from gramian.linalg.kernels import run_tasks

__all__ = ["float_sign_matmul"]

_ROWS_PER_TASK = 8


def float_sign_matmul(x: Float[Tensor, "rows inner"], signs: Int64[Tensor, "outputs words"]) -> Tensor:
    r"""\(x S^T\), S the ±1 that the bits of `signs` stand for (as of `gramian.linalg.factor.quant.binary.pack_signs`).

    On the CPU each eight numbers of a row are summed in all 256 ways once and every output looks its sums up: an eighth
    of the additions, and the signs are never unpacked. Elsewhere they are unpacked and multiplied. Half precision
    is computed in float32.

    Returns:
        (rows, outputs), of x's type.

    Raises:
        ValueError: a number of words that does not fit the inner size.

    >>> from gramian.linalg.factor.quant.binary import pack_signs
    >>> float_sign_matmul(torch.tensor([[1.0, 2.0, 4.0]]), pack_signs(torch.tensor([[1.0, -1.0, 1.0]])))
    tensor([[3.]])
    """
    inner = x.shape[1]
    if signs.shape[1] != -(-inner // BITS):
        raise ValueError(f"{inner} entries take {-(-inner // BITS)} words a row, the signs have {signs.shape[1]}")
    work = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if x.device.type != "cpu":
        return (work @ unpack_signs(signs, inner).to(work).T).to(x.dtype)
    octets = -(-inner // 8)
    padded = np.zeros((len(x), 8 * octets), dtype=np.float64 if work.dtype == torch.float64 else np.float32)
    padded[:, :inner] = work.numpy()
    codes = np.ascontiguousarray(signs.numpy().astype("<i8", copy=False).view(np.uint8)[:, :octets])
    out = np.empty((len(x), len(signs)), dtype=padded.dtype)
    if out.size:
        run_tasks(float_sign_products, -(-len(x) // _ROWS_PER_TASK), padded, codes, out, _ROWS_PER_TASK)
    return torch.from_numpy(out).to(x.dtype)
