import pytest
import torch

from gramian import data
from gramian.surgery.adapters.apply import attach_lora
from gramian.surgery.adapters.sentence_task import QUERIES_AND_VALUES, fine_tune, pieces

needs_minilm = pytest.mark.skipif(not data.is_here("all_minilm_l6_v2"), reason="gramian data fetch all_minilm_l6_v2")


def test_pieces_have_their_words_and_their_text():
    found, labels = pieces(8)
    assert len(found) == len(labels) > 150
    assert {len(p.split()) for p in found} == {8}
    assert labels == sorted(labels)
    assert set(labels) == {0, 1, 2, 3}
    assert "wine" in " ".join(p for p, label in zip(found, labels) if label == 1).lower()
    with pytest.raises(ValueError, match="words=0"):
        pieces(0)


@needs_minilm
@pytest.mark.data
def test_a_fine_tuning_trains_the_adapters_and_repeats():
    def attach(net, seed):
        pattern = [p.replace("*", "*layer.5") for p in QUERIES_AND_VALUES]
        return attach_lora(net, pattern, rank=2, keep="head", generator=torch.Generator().manual_seed(seed))

    first, second = (fine_tune(attach, 1e-2, seed=1, steps=3) for _ in range(2))
    assert first.trained == 2 * 2 * 768
    assert len(first.factors) == 4
    assert first.factors["body.encoder.layer.5.attention.self.query.B"].abs().max() > 0
    assert first.loss == second.loss
    assert 0.2 < first.accuracy < 1
