"""The facets of a unit: the kinds of pictures it answers to, and one synthetic picture of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.analysis.explain import maximize
from gramian.analysis.inspection.activations import evaluated
from gramian.analysis.reducers import Keep
from gramian.analysis.taps import Taps

__all__ = ["FacetPictures", "Facets", "MultifacetedVisualizer", "facets"]


@dataclass(frozen=True)
class Facets:
    """Groups of samples that a layer sees alike.

    Attributes:
        embedding: where each sample lies in the plane.
        labels: the facet of each sample; facets are ordered by size, the largest is 0.
        closest: of each facet the samples closest to its centre, closest first.
    """

    embedding: Float[Tensor, "samples 2"]
    labels: Int[Tensor, " samples"]
    closest: tuple[Int[Tensor, " _"], ...]


def facets(
    codes: Float[Tensor, "samples features"], k: int = 10, *, closest: int = 15, components: int = 50, seed: int = 0
) -> Facets:
    """Group samples by their codes: principal components, t-SNE to the plane, k-means there.

    Args:
        codes: what a late layer makes of each sample.
        k: how many facets.
        closest: how many samples stand for a facet (fewer where it has fewer).
        components: principal components that t-SNE reads.
        seed: of t-SNE and k-means.

    Raises:
        ValueError: fewer than one facet, fewer samples than facets (t-SNE wants four at least), codes that are not
            finite or all alike.

    Source: Nguyen, Yosinski and Clune, Multifaceted Feature Visualization (2016), algorithm 1.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if k < 1 or closest < 1 or components < 1:
        raise ValueError(f"k={k}, closest={closest}, components={components}: each is at least 1")
    count = len(codes)
    if count < max(k, 4):
        raise ValueError(f"{count} samples do not make {k} facets: give at least {max(k, 4)}")
    rows = codes.detach().double().cpu().numpy()
    if not np.isfinite(rows).all():
        raise ValueError("the codes hold NaN or infinite numbers")
    if not np.ptp(rows, axis=0).any():
        raise ValueError("all samples have the same code: there is nothing to group; read another layer")
    reduced = PCA(min(components, *rows.shape), random_state=seed).fit_transform(rows)
    # few samples have few neighbours
    plane = TSNE(2, perplexity=min(30.0, (count - 1) / 3), init="pca", random_state=seed).fit_transform(
        np.ascontiguousarray(reduced, dtype=np.float32)
    )
    found = KMeans(k, n_init=10, random_state=seed).fit(plane)
    order = np.argsort(-np.bincount(found.labels_, minlength=k), kind="stable")
    labels = np.argsort(order)[found.labels_]
    away = np.linalg.norm(plane - found.cluster_centers_[found.labels_], axis=1)
    members = [np.flatnonzero(labels == facet) for facet in range(k)]
    nearest = tuple(torch.from_numpy(m[np.argsort(away[m], kind="stable")][:closest]) for m in members)
    return Facets(torch.from_numpy(plane), torch.from_numpy(labels).long(), nearest)


@dataclass(frozen=True)
class FacetPictures:
    """What a unit answers to, one picture a facet.

    Attributes:
        seen: the unit's activation for every picture.
        chosen: numbers of the pictures with the largest activations, which were grouped.
        facets: their groups; numbers in it count within `chosen`.
        starts: the mean picture of each facet.
        images: where the ascent from it ended.
        activations: of `images`.
    """

    seen: Float[Tensor, " samples"]
    chosen: Int[Tensor, " top"]
    facets: Facets
    starts: Float[Tensor, "facets channels height width"]
    images: Float[Tensor, "facets channels height width"]
    activations: Float[Tensor, " facets"]


class MultifacetedVisualizer:
    """One synthetic picture for each kind of picture that a unit answers to.

    The pictures with the largest activations are grouped by their codes (`facets`); the mean of each group's most
    typical pictures is where the ascent (`gramian.analysis.explain.maximize`) begins.

    Args:
        model: any network of pictures; left as found.
        layer, unit: whose activation; ``""`` is the model's own output.
        codes: the layer whose features are grouped, the one before the class scores, say.

    Raises:
        ValueError: no such layer.

    Source: Nguyen, Yosinski and Clune, Multifaceted Feature Visualization (2016).
    """

    def __init__(self, model: nn.Module, layer: str, unit: int, *, codes: str) -> None:
        self.model, self.codes = model, codes
        self.score = maximize.unit_activation(model, layer, unit)
        Taps(model, {codes: [Keep()]})  # names the layers if there is none of this name

    def fit(
        self,
        images: Float[Tensor, "samples channels height width"],
        k: int = 10,
        *,
        top: int | None = None,
        closest: int = 15,
        steps: int = 200,
        rate: float | int = 1.0,
        prior: maximize.Prior | None = None,
        seed: int = 0,
        at_once: int = 256,
    ) -> FacetPictures:
        """Group the pictures and climb from each group's mean.

        Args:
            images: prepared pictures: of one class, or any.
            k: facets.
            top: how many pictures, those with the largest activations, to group; by default all.
            closest: pictures of a facet whose mean is the start.
            steps, rate, prior: of the ascent.
            seed: of the grouping and the jitter.
            at_once: pictures in one pass.

        Raises:
            ValueError: a unit that is not there, fewer pictures (or top) than facets, or what `facets` and
                `maximize.maximize` raise.
        """
        top = len(images) if top is None else top
        if not k <= top <= len(images):
            raise ValueError(f"top={top} of {len(images)} pictures for {k} facets: take between {k} and {len(images)}")
        activations, codes = self.look(images, at_once)
        chosen = activations.argsort(descending=True, stable=True)[:top]
        groups = facets(codes[chosen], k, closest=closest, seed=seed)
        starts = torch.stack([images[chosen[rows]].mean(0) for rows in groups.closest])
        found = maximize.maximize(
            self.model, self.score, starts, steps=steps, rate=rate, prior=prior,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        return FacetPictures(activations, chosen, groups, starts, found.images, found.activations)

    def look(
        self, images: Float[Tensor, "samples channels height width"], at_once: int = 256
    ) -> tuple[Float[Tensor, " samples"], Float[Tensor, "samples features"]]:
        """The unit's activation and the code (channels averaged over places) of each picture."""
        parts = []
        with torch.no_grad(), evaluated(self.model), Taps(self.model, {self.codes: [Keep()]}, reduce="gap") as taps:
            for batch in images.split(at_once):
                parts.append(self.score(batch))
        keep = taps[next(iter(taps))][0]
        assert isinstance(keep, Keep)
        return torch.cat(parts), keep.rows
