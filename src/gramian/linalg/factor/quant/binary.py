r"""Signs in one bit each, their exact products by counting bits, and what rounding a sine to its sign costs."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from gramian.linalg.factor.quant.binary_kernels import sign_products
from gramian.linalg.kernels import run_tasks

__all__ = ["pack_signs", "periodic_error", "sign_matmul", "unpack_signs"]

BITS = 64
_ROWS_PER_TASK = 64


def pack_signs(x: Float[Tensor, "rows inner"]) -> Int64[Tensor, "rows words"]:
    """One bit for each entry that is at least 0, 64 to a word, the first in the lowest bit; what is over is 0.

    >>> pack_signs(torch.tensor([[1.0, -1.0, 0.0]]))
    tensor([[5]])
    """
    return _pack((x >= 0).cpu().numpy()).to(x.device)


def _pack(bits: np.ndarray) -> Tensor:
    rows, inner = bits.shape
    whole = np.zeros((rows, -(-inner // BITS) * BITS // 8), dtype=np.uint8)
    packed = np.packbits(bits, axis=1, bitorder="little")
    whole[:, : packed.shape[1]] = packed
    return torch.from_numpy(whole.view("<u8").view(np.int64))


def unpack_signs(words: Int64[Tensor, "rows words"], inner: int) -> Float[Tensor, "rows inner"]:
    """−1 and +1 out of packed signs.

    Raises:
        ValueError: more entries than there are bits.
    """
    if not 0 <= inner <= BITS * words.shape[1]:
        raise ValueError(f"inner={inner}: {words.shape[1]} words hold up to {BITS * words.shape[1]} signs")
    bits = np.unpackbits(words.cpu().numpy().view(np.uint8), axis=1, count=inner, bitorder="little")
    return torch.from_numpy(bits).to(words.device).float() * 2 - 1


def sign_matmul(
    a: Float[Tensor, "rows inner"], b: Int64[Tensor, "outputs words"], how: str = "auto"
) -> Int32[Tensor, "rows outputs"]:
    r"""\(\mathrm{sign}(a)\, b^T\), exactly: XNOR and a count of bits in place of multiplications.

    An entry that is exactly 0 counts as 0 (the rim that a convolution pads), not as a sign.

    Args:
        a: activations; only their signs matter.
        b: packed weights, as of `pack_signs`.
        how: ``"bits"`` counts bits, compiled, on the CPU; ``"float"`` multiplies unpacked floats, which are exact
            as well; ``"auto"`` takes bits on the CPU.

    Raises:
        ValueError: another `how`, sizes that do not fit, NaN, or bits for a tensor on a GPU.
    """
    inner = a.shape[1]
    if how not in ("auto", "bits", "float"):
        raise ValueError(f"how={how!r} is not one of auto, bits, float")
    if b.shape[1] != -(-inner // BITS):
        raise ValueError(f"{inner} entries take {-(-inner // BITS)} words a row, the weights have {b.shape[1]}")
    if bool(a.isnan().any()):
        raise ValueError("the activations hold NaN, which has no sign")
    on_cpu = a.device.type == "cpu"
    if how == "bits" and not on_cpu:
        raise ValueError(f"bits are counted on the CPU only, the activations are on {a.device}; take how='float'")
    if how == "float" or not on_cpu:
        return (a.sign().float() @ unpack_signs(b, inner).T).round().to(torch.int32)
    out = np.empty((len(a), len(b)), dtype=np.int32)
    given = _pack((a != 0).numpy()).numpy().view(np.uint64)
    words, weights = pack_signs(a).numpy().view(np.uint64), b.contiguous().numpy().view(np.uint64)
    run_tasks(sign_products, -(-len(a) // _ROWS_PER_TASK), words, given, weights, out, _ROWS_PER_TASK)
    return torch.from_numpy(out)


def periodic_error(frequency: float | int, scale: float | int) -> float:
    r"""\(E\,(\mathrm{sign}(s) - s)^2\) of \(s = \sin(\omega w)\), w Laplace distributed with scale b.

    With \(\theta = \omega b\): \(1 + \tfrac12 (1 - \tfrac{1}{1 + 4\theta^2}) - \tfrac{2\theta}{1 + \theta^2}
    \coth \tfrac{\pi}{2\theta}\), which falls from 1 towards \(\tfrac32 - \tfrac4\pi\) as the frequency grows.

    Raises:
        ValueError: a frequency or a scale that is not positive and finite.

    >>> round(periodic_error(1e6, 1.0), 4)
    0.2268
    """
    angle = frequency * scale
    if not (frequency > 0 and scale > 0 and math.isfinite(angle)):
        raise ValueError(f"frequency={frequency} and scale={scale} must be positive and finite")
    second = (1 - 1 / (1 + 4 * angle**2)) / 2
    first = angle / (1 + angle**2) / math.tanh(math.pi / (2 * angle))
    return 1 + second - 2 * first
