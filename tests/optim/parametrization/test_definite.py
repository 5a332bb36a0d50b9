"""Definite input-output products."""

import pytest
import torch
from torch import nn

from gramian.models.language.mamba_lm import MambaLM
from gramian.optim.parametrization.definite import DefiniteProjection, make_definite


@pytest.mark.parametrize(("sign", "positive"), [("positive", 4), ("negative", 0), ("mixed", 2)])
def test_a_models_products_have_the_sign(sign, positive):
    model = MambaLM(20, channels=8, depth=2, state_size=4, generator=torch.Generator().manual_seed(0))
    assert make_definite(model, sign) == 2
    for layer in model.backbone.layers:
        weight = layer.mixer.x_proj.weight.detach().double()
        _, S_B, S_C = weight.split((layer.mixer.dt_rank, 4, 4))
        eigenvalues = torch.linalg.eigvalsh((S_C.T @ S_B + S_B.T @ S_C) / 2)
        torch.testing.assert_close(S_C.T @ S_B, S_B.T @ S_C)
        assert int((eigenvalues > 1e-6).sum()) == positive
        assert int((eigenvalues < -1e-6).sum()) == 4 - positive
    logits = model(torch.zeros(1, 5, dtype=torch.long))
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_free_part_and_the_upper_triangle_are_kept():
    weight = torch.randn(2 + 6, 5, generator=torch.Generator().manual_seed(0))
    projection = DefiniteProjection(2, 3)
    again = projection(*projection.right_inverse(weight))
    assert torch.equal(again[:2], weight[:2])
    torch.testing.assert_close(again[5:].triu(1), weight[5:].triu(1))
    torch.testing.assert_close(again[5:].diagonal(), torch.ones(3))
    assert not bool(again[5:].tril(-1).any())


def test_what_is_refused():
    with pytest.raises(ValueError, match="sign='odd'"):
        DefiniteProjection(0, 2, "odd")
    with pytest.raises(ValueError, match="as many columns as states"):
        DefiniteProjection(0, 4).right_inverse(torch.ones(8, 3))
    with pytest.raises(ValueError, match="without Mamba layers"):
        make_definite(nn.Linear(2, 2))
