"""DeiT with linear attention."""

import pytest
import torch

from gramian.models.vision.deit import DeiT
from gramian.models.vision.lion import SIZES, LionViT

SMALL = {"channels": 1, "classes": 10, "width": 16, "depth": 2, "heads": 2, "neurons": 32}


@pytest.mark.parametrize("decay", ["none", "constant", "selective"])
@pytest.mark.parametrize("curve", [False, True])
def test_forms_of_the_network_agree(decay, curve):
    net = LionViT(8, 2, **SMALL, decay=decay, curve=curve, generator=torch.Generator().manual_seed(0)).double()
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = []
    for form in ("full", "rnn", "chunk"):
        for block in net.blocks:
            block.attention.form = form
        logits.append(net(images).detach())
    assert logits[0].std() > 1e-4
    assert torch.allclose(logits[0], logits[1], rtol=0, atol=1e-12)
    assert torch.allclose(logits[0], logits[2], rtol=0, atol=1e-12)


def test_one_seed_gives_one_network_and_softmax_keeps_deits_attention():
    a, b = (LionViT(8, 2, **SMALL, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    softmax = LionViT(8, 2, **SMALL, decay="softmax", generator=torch.Generator().manual_seed(3))
    deit = DeiT(8, 2, **SMALL)
    assert {n: p.shape for n, p in softmax.named_parameters()} == {n: p.shape for n, p in deit.named_parameters()}


def test_sizes_are_deits_and_a_decay_a_head():
    tiny = SIZES["tiny"]
    with torch.device("meta"):
        count = {d: sum(p.numel() for p in LionViT(**tiny, decay=d).parameters()) for d in ("softmax", "selective")}
    assert count["selective"] - count["softmax"] == 12 * (tiny["width"] + 1) * tiny["heads"]
    assert count["softmax"] == 5_717_416


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="decay='fast'"):
        LionViT(8, 2, **SMALL, decay="fast")
    with pytest.raises(ValueError, match="curve=True"):
        LionViT(8, 2, **SMALL, decay="softmax", curve=True)
    with pytest.raises(ValueError, match="4 patches"):
        LionViT(8, 2, **SMALL)(torch.zeros(1, 1, 4, 4))
