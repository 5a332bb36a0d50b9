"""The StyleGAN2 generator and its parts, against plain forms."""

import math

import pytest
import torch
from torch.nn import functional

from gramian.models.generative import stylegan2
from gramian.models.generative.latent_optimization import LatentOptimization, reconstruction_loss
from gramian.optim.fit import fit


def tiny(**options):
    torch.manual_seed(0)
    settings = {"style_size": 12, "mapping_layers": 2, "channels": {4: 8, 8: 6, 16: 4}, "image_channels": 1}
    return stylegan2.StyleGAN2Generator(16, **(settings | options))


@pytest.mark.parametrize("demodulate", [True, False])
def test_scaling_activations_is_scaling_the_weight_per_sample(demodulate):
    torch.manual_seed(0)
    conv = stylegan2.ModulatedConv(5, 7, 3, 12, demodulate=demodulate).double()
    x, style = torch.randn(3, 5, 6, 6, dtype=torch.float64), torch.randn(3, 12, dtype=torch.float64)
    weight = conv.gain * conv.weight[None] * conv.affine(style)[:, None, :, None, None]
    if demodulate:
        weight = weight / weight.square().sum((2, 3, 4), keepdim=True).add(1e-8).sqrt()
    expected = torch.cat([functional.conv2d(x[i : i + 1], weight[i], padding=1) for i in range(3)])
    torch.testing.assert_close(conv(x, style), expected)


def test_upsampling_is_zeros_then_the_binomial_filter():
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    kernel = torch.outer(taps, taps) / 64 * 4
    spread = torch.zeros(1, 2, 6, 8, dtype=torch.float64)
    spread[:, :, ::2, ::2] = x
    expected = functional.conv2d(functional.pad(spread, (2, 1, 2, 1)), kernel.expand(2, 1, 4, 4), groups=2)
    torch.testing.assert_close(stylegan2.upsample(x), expected)
    torch.testing.assert_close(stylegan2.upsample(torch.ones(1, 1, 8, 8))[..., 4:-4, 4:-4], torch.ones(1, 1, 8, 8))


def test_the_up_sampling_convolution_keeps_the_scale_and_doubles_the_size():
    torch.manual_seed(0)
    conv = stylegan2.ModulatedConv(32, 16, 3, 12, up=True)
    y = conv(torch.randn(8, 32, 10, 10), torch.randn(8, 12))
    assert y.shape == (8, 16, 20, 20)
    assert 0.5 < float(y.std()) < 2


def test_styles_a_layer_and_noise():
    generator = tiny()
    z = torch.randn(2, 12)
    w = generator.map(z)
    image = generator(z)
    assert image.shape == (2, 1, 16, 16)
    assert generator.num_styles == 6
    torch.testing.assert_close(generator.synthesize(w[:, None].expand(-1, 6, -1)), image)
    torch.testing.assert_close(generator(3 * z), image)  # latents are normalized first
    with torch.no_grad():
        for conv in generator.convs:
            conv.strength.fill_(0.5)
    noisy = [generator(z, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    with pytest.raises(ValueError, match="reads 6"):
        generator.synthesize(w[:, None].expand(-1, 5, -1))
    with pytest.raises(ValueError, match="power of two"):
        stylegan2.StyleGAN2Generator(12)


def test_the_ffhq_generator_has_thirty_million_parameters():
    with torch.device("meta"):
        generator = stylegan2.StyleGAN2Generator()
    assert sum(p.numel() for p in generator.parameters()) == 30_370_060
    assert generator.num_styles == 18
    assert generator.convs[-1].conv.weight.shape == (32, 32, 3, 3)
    assert generator.mapping[0].gain == 0.01 / math.sqrt(512)


def test_latent_optimization_fits_a_few_images_and_samples():
    images = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(-1) / 4
    model = LatentOptimization(tiny(), 8, 12, torch.Generator().manual_seed(1))
    index = torch.arange(8)
    before = float(reconstruction_loss(model, index, images))
    fit(model, (index, images), reconstruction_loss, steps=60, batch_size=8, lr=2e-2, show_progress=False)
    assert float(reconstruction_loss(model, index, images)) < 0.5 * before
    sample = model.sample(3, torch.Generator().manual_seed(2))
    assert sample.shape == (3, 1, 16, 16)
    assert torch.isfinite(sample).all()
