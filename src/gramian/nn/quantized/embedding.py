"""An embedding whose rows are packed integers."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.linalg.factor.quant import symmetric

__all__ = ["StaticEmbedding"]


class StaticEmbedding(nn.Module):
    """Rows of a table in a few bits, unpacked when they are looked up.

    Args:
        weight: the table, rounded to nearest.
        bits: of the codes.
        group: numbers of a row that share a scale.

    Raises:
        ValueError: as `gramian.linalg.factor.quant.symmetric.quantize_matrix`.
    """

    packed: Tensor
    scales: Tensor

    def __init__(self, weight: Float[Tensor, "vocabulary channels"], bits: int = 8, group: int = 128) -> None:
        super().__init__()
        self.vocabulary, self.channels = weight.shape
        self.bits, self.group = bits, group
        codes, scales = symmetric.quantize_matrix(weight.detach(), bits, group)
        codes = nn.functional.pad(codes, (0, -self.channels % 8))  # whole bytes: rows are found by themselves
        self.register_buffer("packed", symmetric.pack_codes(codes, bits).view(self.vocabulary, -1))
        self.register_buffer("scales", scales)

    @property
    def nbytes(self) -> int:
        """The codes' bytes, and the scales' in 16 bits."""
        return self.packed.nbytes + 2 * self.scales.numel()

    def forward(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch channels"]:
        shape = (ids.numel(), self.channels + -self.channels % 8)
        codes = symmetric.unpack_codes(self.packed[ids.flatten()].flatten(), self.bits, shape)[:, : self.channels]
        wide = symmetric.spread_scales(self.scales[ids.flatten()], self.channels, self.group)
        return (codes.to(wide.dtype) * wide).view(*ids.shape, self.channels)
