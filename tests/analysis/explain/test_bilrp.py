import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gramian.analysis.explain.bilrp import (
    BiRelevance,
    bilrp,
    bilrp_text,
    embedding_relevance,
    pool_cells,
    random_directions,
)
from gramian.analysis.explain.relevance import Rule, lrp


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(bias=False):
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 6, bias=bias), nn.ReLU()
    )
    for k, p in enumerate(net.parameters()):
        p.data = normal(*p.shape, seed=k)
    return net.eval()


def test_a_linear_map_gives_products_of_entries():
    a = nn.Linear(5, 3, bias=False).double()
    x, other = normal(5, seed=1), normal(5, seed=2)
    found = bilrp(a, x, other)
    torch.testing.assert_close(found.matrix(), x[:, None] * other * (a.weight.T @ a.weight))
    torch.testing.assert_close(found.similarity, a(x) @ a(other))


def test_without_biases_it_is_the_mixed_second_derivative_times_both():
    net, x, other = network(), normal(1, 2, 6, 6, seed=1), normal(1, 2, 6, 6, seed=2)

    def similarity(u, v):
        return (net(u) * net(v)).sum()

    blocks = torch.autograd.functional.hessian(similarity, (x, other))
    wanted = x.view(-1, 1) * other.view(1, -1) * blocks[0][1].view(72, 72)
    torch.testing.assert_close(bilrp(net, x, other).matrix(), wanted)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5])
def test_the_table_sums_to_the_similarity_and_swaps_with_the_inputs(gamma):
    net, x, other = network(), normal(1, 2, 6, 6, seed=1), normal(1, 2, 6, 6, seed=2)
    rules = {"*": Rule.gamma(gamma)}
    found = bilrp(net, x, other, rules)
    torch.testing.assert_close(found.matrix().sum(), found.similarity)
    torch.testing.assert_close(bilrp(net, other, x, rules).matrix(), found.matrix().T)
    pooled = bilrp(net, x, other, rules, pool=pool_cells(3), at_once=2)
    assert pooled.matrix().shape == (4, 4)
    cells = found.matrix().view(2, 2, 3, 2, 3, 2, 2, 3, 2, 3).sum((0, 2, 4, 5, 7, 9))
    torch.testing.assert_close(pooled.matrix(), cells.reshape(4, 4))


def test_factors_are_relevance_entry_by_entry():
    net, x = network(bias=True), normal(1, 2, 6, 6, seed=1)
    rules = {"0": Rule.zbox(-4.0, 4.0), "*": Rule.gamma(0.2)}
    factor, entries = embedding_relevance(net, x, rules)
    torch.testing.assert_close(entries, net(x)[0])
    for k in range(6):
        torch.testing.assert_close(factor[k], lrp(net, x, F.one_hot(torch.tensor([k]), 6).double(), rules).flatten())


def test_random_directions_keep_the_table_on_average():
    net, x, other = network(), normal(1, 2, 6, 6, seed=1), normal(1, 2, 6, 6, seed=2)
    exact = bilrp(net, x, other)
    many = bilrp(net, x, other, project=20_000, at_once=20_000, generator=torch.Generator().manual_seed(0))
    assert float((many.matrix() - exact.matrix()).norm() / exact.matrix().norm()) < 0.05
    assert abs(float(many.similarity / exact.similarity) - 1) < 0.05
    directions = random_directions(7, 6, torch.Generator().manual_seed(3))
    assert directions.shape == (7, 6)
    with pytest.raises(ValueError, match="directions of 5 entries for an embedding of 6"):
        embedding_relevance(net, x, directions=directions[:, :5].double())
    with pytest.raises(ValueError, match="at least one direction"):
        bilrp(net, x, other, project=0)


def test_the_strongest_pairs_and_cells_that_do_not_tile():
    found = BiRelevance(torch.eye(2), torch.tensor([[1.0, 5.0, 2.0], [0.0, -1.0, 4.0]]), torch.tensor(1.0))
    assert found.top(2) == [(0, 1, 5.0), (1, 2, 4.0)]
    with pytest.raises(ValueError, match="6 pairs"):
        found.top(7)
    with pytest.raises(ValueError, match="do not tile"):
        pool_cells(4)(torch.zeros(1, 1, 3, 6, 8))
    with pytest.raises(ValueError, match="at least 1"):
        pool_cells(0)


LEVELS = ("token", "embedding")


class Encoder(nn.Module):
    """One attention layer without biases, as a transformers encoder calls it."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(9, 6), nn.LayerNorm(6, elementwise_affine=False, bias=False)
        self.mix = nn.Linear(6, 18, bias=False)
        self.drop = nn.Dropout(0.3)
        self.config = type("Config", (), {"pad_token_id": 0})()
        for k, p in enumerate(self.parameters()):
            p.data = normal(*p.shape, seed=k)

    def forward(self, ids):
        query, key, value = self.mix(self.norm(self.table(ids))).chunk(3, -1)
        return (self.drop(torch.softmax(query @ key.mT, -1) @ F.gelu(value)),)


def test_texts_by_hand_and_refusals():
    encoder = Encoder().eval()
    first, second = torch.tensor([1, 4, 2]), torch.tensor([3, 3, 8, 5])
    found = bilrp_text(encoder, first, second, embeddings="norm")
    assert found.matrix().shape == (3, 4)
    torch.testing.assert_close(found.matrix().sum(), found.similarity)
    one, two = (encoder(i[None])[0][0].mean(0) for i in (first, second))
    torch.testing.assert_close(found.similarity, one @ two)
    # a token's part of the mean state, with attention, divisor and gain as they are
    x = encoder.table(first)
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    query, key, value = encoder.mix(normed).chunk(3, -1)
    wanted = torch.softmax(query @ key.mT, -1).mean(0)[:, None] * F.gelu(value)
    torch.testing.assert_close(found.left, wanted.T)
    for at_once in (1, 64):  # one pass a token is one pass an entry, summed over the width
        both = (bilrp_text(encoder, first, second, embeddings="norm", level=k, at_once=at_once) for k in LEVELS)
        by_token, by_entry = both
        torch.testing.assert_close(by_token.left, by_entry.left.unflatten(1, (3, 6)).sum(-1))
        torch.testing.assert_close(by_token.right, by_entry.right.unflatten(1, (4, 6)).sum(-1))
    plain = bilrp_text(encoder, first, second, embeddings="norm", method="gradient")
    assert float(plain.matrix().sum().abs()) < 1e-3 * float(found.similarity.abs())
    with pytest.raises(ValueError, match="padding among the tokens"):
        bilrp_text(encoder, first, torch.tensor([1, 0]), embeddings="norm")
    with pytest.raises(ValueError, match="no module matches"):
        bilrp_text(encoder, first, second)
    with pytest.raises(ValueError, match="training mode"):
        bilrp_text(encoder.train(), first, second, embeddings="norm")
