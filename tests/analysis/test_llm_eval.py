import pytest
import torch
from torch import nn

from gramian.analysis import llm_eval


class Toy(nn.Module):
    """A model with transformers' face: an embedding and one mixing layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 8)
        self.mix = nn.Linear(8, 8)

    def forward(self, input_ids, output_hidden_states):
        assert output_hidden_states
        first = self.embedding(input_ids)
        return type("Output", (), {"hidden_states": (first, torch.tanh(self.mix(first)))})


def test_scores_are_the_formula_at_every_layer():
    model, ids = Toy(), torch.arange(12)
    scores = llm_eval.score_text(model, ids, (0, 1))
    for layer, x in enumerate((model.embedding(ids), torch.tanh(model.mix(model.embedding(ids))))):
        x = x.detach() - x.detach().mean(0)
        x = x / x.norm(dim=1, keepdim=True)
        values = torch.linalg.svdvals(x)
        assert torch.isclose(scores.svd[layer], values.sum() / 12)
        assert torch.isclose(scores.l12[layer], x.norm(dim=0).sort(descending=True).values[:8].sum() / 12)
    assert llm_eval.mnn_score(model, [ids, ids], layer=1, method="svd") == pytest.approx(float(scores.svd[1]))
    assert llm_eval.mnn_score(model, [ids], layer=0) == pytest.approx(float(scores.l12[0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: llm_eval.mnn_score(m, []), "at least one text"),
        (lambda m: llm_eval.mnn_score(m, [torch.arange(4)], method="qr"), "not 'l12' or 'svd'"),
        (lambda m: llm_eval.mnn_score(m, [torch.arange(4)], layer=7), "layer 7"),
        (lambda m: llm_eval.score_text(m, torch.arange(1)), "at least two tokens"),
        (lambda m: llm_eval.score_text(m, torch.zeros(5, dtype=torch.long)), "equal the mean row"),
    ],
)
def test_bad_input_is_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call(Toy())
