"""Facets of groups that are known, and the pictures that come of them."""

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import nn

from gramian.analysis.explain import facets


def groups(sizes, seed=0, width=6):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    codes = 8 * torch.randn(len(sizes), width, generator=generator)[labels]
    return codes + torch.randn(len(labels), width, generator=generator), labels


def test_planted_groups_are_found_largest_first():
    codes, labels = groups((20, 45, 30))
    found = facets.facets(codes, 3, closest=5)
    assert adjusted_rand_score(labels, found.labels) == 1.0
    assert found.labels.bincount().tolist() == [45, 30, 20]
    assert found.embedding.shape == (95, 2)
    for facet, rows in enumerate(found.closest):
        assert len(rows) == 5
        assert set(found.labels[rows].tolist()) == {facet}
        middle = found.embedding[found.labels == facet].mean(0)
        away = (found.embedding - middle).norm(dim=1)
        limit = away[found.labels == facet].sort().values[4]
        assert bool((away[rows] <= limit + 1e-3).all())
        assert bool((away[rows].diff() >= -1e-3).all())


def test_a_seed_repeats_and_a_small_facet_has_fewer_examples():
    codes, _ = groups((12, 3))
    first, second = (facets.facets(codes, 2, closest=8, seed=4) for _ in range(2))
    assert torch.equal(first.embedding, second.embedding)
    assert torch.equal(first.labels, second.labels)
    assert [len(r) for r in first.closest] == [8, 3]


def test_codes_that_do_not_make_facets():
    codes, _ = groups((10, 10))
    with pytest.raises(ValueError, match="k=0"):
        facets.facets(codes, 0)
    with pytest.raises(ValueError, match="do not make 30"):
        facets.facets(codes, 30)
    with pytest.raises(ValueError, match="NaN"):
        facets.facets(codes * float("inf"), 2)
    with pytest.raises(ValueError, match="the same code"):
        facets.facets(torch.ones(10, 3), 2)


class Pick(nn.Module):
    """Two templates: the left and the right half of the picture."""

    def __init__(self):
        super().__init__()
        self.halves = nn.Conv2d(1, 2, (4, 4), bias=False)
        with torch.no_grad():
            self.halves.weight.zero_()
            self.halves.weight[0, :, :, :2] = 1
            self.halves.weight[1, :, :, 2:] = 1

    def forward(self, x):
        return self.halves(x).flatten(1).amax(1, keepdim=True)


def test_one_picture_for_each_half():
    generator = torch.Generator().manual_seed(0)
    model = Pick().train()
    images = 0.1 * torch.randn(40, 1, 4, 4, generator=generator)
    images[:25, :, :, :2] += 1
    images[25:, :, :, 2:] += 1
    viewer = facets.MultifacetedVisualizer(model, "", 0, codes="halves")
    found = viewer.fit(images, 2, closest=6, steps=10)
    assert found.starts.shape == found.images.shape == (2, 1, 4, 4)
    assert (found.chosen < 25)[found.facets.labels == 0].all()
    rows = found.chosen[found.facets.closest[1]]
    assert torch.allclose(found.starts[1], images[rows].mean(0))
    half = (found.images - found.starts).flatten(1)
    wanted = model.halves.weight.flatten(1)
    assert torch.allclose(nn.functional.cosine_similarity(half, wanted), torch.tensor(1.0), atol=1e-4)
    assert torch.allclose(found.activations, model(found.images)[:, 0])
    assert torch.allclose(found.seen, model(images)[:, 0])
    assert model.training
    few = viewer.fit(images, 2, top=20, steps=1)
    order = model(images)[:, 0].argsort(descending=True)[:20]
    assert set(few.chosen.tolist()) == set(order.tolist())
    activations, codes = viewer.look(images, at_once=7)
    assert torch.allclose(activations, model(images)[:, 0])
    assert torch.allclose(codes, model.halves(images)[:, :, 0, 0], atol=1e-6)


class Sure(Pick):
    """A network that gives no gradient."""

    def forward(self, x):
        return super().forward(x).detach()


def test_what_does_not_fit_is_refused():
    model, images = Pick(), torch.rand(10, 1, 4, 4)
    with pytest.raises(ValueError, match="no module matches"):
        facets.MultifacetedVisualizer(model, "", 0, codes="nowhere")
    with pytest.raises(ValueError, match="10 pictures for 11 facets"):
        facets.MultifacetedVisualizer(model, "", 0, codes="halves").fit(images, 11)
    with pytest.raises(ValueError, match="unit=1"):
        facets.MultifacetedVisualizer(model, "", 1, codes="halves").fit(images, 2)
    with pytest.raises(ValueError, match="differentiated"):
        facets.MultifacetedVisualizer(Sure(), "", 0, codes="halves").fit(images, 2)
