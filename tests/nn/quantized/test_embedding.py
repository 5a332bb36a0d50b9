"""Embeddings of packed integers."""

import pytest
import torch

from gramian.linalg.factor.quant import symmetric
from gramian.nn.quantized.embedding import StaticEmbedding


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("channels", [8, 13])
def test_rows_are_the_rounded_tables(bits, channels):
    table = torch.randn(20, channels, generator=torch.Generator().manual_seed(0))
    layer = StaticEmbedding(table, bits, 5)
    codes, scales = symmetric.quantize_matrix(table, bits, 5)
    wanted = codes * symmetric.spread_scales(scales, channels, 5)
    ids = torch.tensor([[3, 0, 19], [3, 3, 7]])
    torch.testing.assert_close(layer(ids), wanted[ids])
    assert layer(ids[0, 0]).shape == (channels,)
    assert layer.nbytes == 20 * (-(-channels // 8) * bits) + 2 * scales.numel()
