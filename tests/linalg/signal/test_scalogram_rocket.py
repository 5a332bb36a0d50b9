import math

import pytest
import torch

from gramian.linalg.signal.rocket import RandomKernels
from gramian.linalg.signal.scalogram import morlet_scales, scalogram


def test_a_scalogram_is_the_integral_with_the_wavelet():
    x = torch.randn(64, dtype=torch.float64)
    scales = torch.tensor([4.0, 7.0], dtype=torch.float64)
    found = scalogram(x, scales)
    whole = torch.cat((x, x.flip(0)))
    t = torch.arange(128, dtype=torch.float64)
    for i, s in enumerate(scales):
        for b in (20, 33, 47):
            gap = t - b
            gap = torch.remainder(gap + 64, 128) - 64  # the mirrored series goes round
            bell = torch.exp(-0.5 * (gap / s) ** 2)
            wavelet = torch.exp(6j * gap / s) * bell * math.pi**-0.25
            # ψ̂(ω) = √2π times the bell of the transform; its negative frequencies, cut here, are e^(−18)
            direct = (whole * wavelet.conj()).sum().abs() / s.sqrt() / math.sqrt(math.tau)
            assert float((found[i, b] - direct).abs()) < 1e-6


@pytest.mark.parametrize("period", [4, 10, 25])
def test_a_tone_answers_at_its_scale(period):
    scales = morlet_scales(256, 60)
    tone = torch.sin(math.tau * torch.arange(256.0) / period)
    loudest = int(scalogram(tone, scales)[:, 100:156].mean(1).argmax())
    expected = int((scales * 4 * math.pi / (6 + math.sqrt(38)) - period).abs().argmin())
    assert abs(loudest - expected) <= 1


def test_random_features_are_shares_and_maxima_of_convolutions():
    kernels = RandomKernels(30, 12, torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 30, generator=torch.Generator().manual_seed(1))
    found, place = kernels.features(x), 0
    for (width, dilation, padding), weights in kernels.groups.items():
        for i, row in enumerate(weights):
            assert abs(float(row[:-1].sum())) < 1e-5
            padded = torch.nn.functional.pad(x, (padding, padding))
            span = (width - 1) * dilation
            answers = torch.stack([(padded[..., t : t + span + 1 : dilation] * row[:-1]).sum(-1) + row[-1]
                                   for t in range(padded.shape[-1] - span)], -1)  # fmt: skip
            share = found[..., place + i]
            assert torch.allclose(share, (answers > 0).float().mean(-1), atol=0.04)
            assert torch.allclose(found[..., place + len(weights) + i], answers.amax(-1), atol=1e-4)
        place += 2 * len(weights)
    assert place == found.shape[-1]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="length=5"):
        morlet_scales(5, 3)
    with pytest.raises(ValueError, match="must be positive"):
        scalogram(torch.zeros(9), torch.tensor([0.0]))
    with pytest.raises(ValueError, match="length=10"):
        RandomKernels(10, 3)
    with pytest.raises(ValueError, match="drawn for 30"):
        RandomKernels(30, 3).features(torch.zeros(2, 29))
