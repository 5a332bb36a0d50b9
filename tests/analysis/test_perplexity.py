import itertools
import math

import pytest
import torch
from torch import nn

from gramian.analysis.perplexity import negative_log_likelihood, perplexity


class Bigram(nn.Module):
    """Logits that depend on the last token alone."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids]


def test_a_uniform_model_has_the_size_of_its_vocabulary():
    assert perplexity(Bigram(torch.zeros(7, 7)), torch.arange(7)) == pytest.approx(7)


def test_the_mean_is_over_predicted_tokens_and_windows_share_nothing():
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([0, 3, 1, 4, 2, 2, 0])
    log = table.log_softmax(-1)
    whole = -sum(float(log[a, b]) for a, b in itertools.pairwise(ids)) / 6
    assert negative_log_likelihood(Bigram(table), ids) == pytest.approx(whole, rel=1e-5)
    pairs = -sum(float(log[ids[i], ids[i + 1]]) for i in (0, 1, 3, 4)) / 4  # windows 0-2, 3-5, and a lone 6
    assert negative_log_likelihood(Bigram(table), ids, window=3) == pytest.approx(pairs, rel=1e-5)


def test_hopeless_models_are_infinite_not_an_error():
    table = torch.full((2, 2), -1e4)
    table[:, 0] = 0
    assert perplexity(Bigram(table), torch.tensor([0, 1, 1])) == math.inf


@pytest.mark.parametrize(
    ("ids", "window"), [(torch.tensor([1]), 8), (torch.zeros(2, 2, dtype=torch.long), 8), (torch.tensor([0, 1]), 1)]
)
def test_bad_input(ids, window):
    with pytest.raises((ValueError, TypeError), match=r"tokens|window|shape|type"):
        negative_log_likelihood(Bigram(torch.zeros(2, 2)), ids, window)
