import pytest
import torch

from gramian.nn.sparse.autoencoder import SparseAutoencoder


def test_its_parts_and_its_loss():
    generator = torch.Generator().manual_seed(0)
    model = SparseAutoencoder(5, 9, generator).double()
    x = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    codes = model.encode(x)
    assert codes.shape == (7, 9)
    assert bool((codes >= 0).all())
    assert torch.allclose(model.decoder.norm(dim=1), torch.ones(9, dtype=torch.float64))
    assert torch.allclose(model(x), codes @ model.decoder + model.centre)
    expected = (x - model(x)).square().sum(1).mean() + 0.3 * codes.sum(1).mean()
    assert torch.allclose(model.loss(x, 0.3), expected)
    assert torch.autograd.gradcheck(lambda v: model.loss(v, 0.3), x.requires_grad_())
    with torch.no_grad():
        model.directions.mul_(3)  # the length of a direction is no freedom
    assert torch.allclose(model.loss(x, 0.3), expected)


def test_it_learns_directions_that_are_rarely_present():
    from gramian.optim.fit import fit

    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    codes = torch.rand(2000, 8, generator=generator) * (torch.rand(2000, 8, generator=generator) < 0.1)
    x = codes @ basis
    model = SparseAutoencoder(8, 16, generator)
    fit(model, (x,), lambda m, batch: m.loss(batch, 0.05), steps=300, batch_size=256, lr=1e-2, generator=generator,
        show_progress=False)  # fmt: skip
    best = (model.decoder.detach() @ basis.T).amax(0)
    assert float(best.min()) > 0.9


def test_it_refuses_no_feature():
    with pytest.raises(ValueError, match="at least one"):
        SparseAutoencoder(4, 0)
