r"""The interaction tensor: which of many networks' features are the same feature, and which data points hold it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["InteractionTensor", "gini", "principal_features"]


def principal_features(x: Float[Tensor, "samples features"], k: int) -> Float[Tensor, "samples k"]:
    """Scores on the first k principal components, each with mean 0 and variance 1 over the samples, in float64.

    Raises:
        ValueError: k below 1, or more than the data have directions; NaN.
    """
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the features hold NaN or infinite numbers")
    wide = x.detach().double()
    wide = wide - wide.mean(0)
    left, values, _ = torch.linalg.svd(wide, full_matrices=False)
    rank = int((values > 1e-10 * values.max().clamp(min=torch.finfo(torch.float64).tiny)).sum())
    if not 1 <= k <= rank:
        raise ValueError(f"k={k} components, but the activations of {len(x)} samples have {rank} directions")
    return left[:, :k] * len(x) ** 0.5


def gini(x: Float[Tensor, " count"]) -> float:
    r"""How unevenly a quantity is spread: 0 if all have the same, towards 1 if one has all.

    \(\sum_i (2i - n - 1) x_{(i)} / (n \sum_i x_i)\), sorted.

    Raises:
        ValueError: a negative value, or none above zero.

    >>> gini(torch.tensor([1.0, 1.0, 1.0])), round(gini(torch.tensor([0.0, 0.0, 3.0])), 4)
    (0.0, 0.6667)
    """
    values = x.double().sort().values
    if len(values) == 0 or float(values[0]) < 0 or not float(values.sum()) > 0:
        raise ValueError("Gini's index is for values that are not negative and not all zero")
    places = 2 * torch.arange(1, len(values) + 1, dtype=torch.float64) - len(values) - 1
    return float((places * values).sum() / (len(values) * values.sum()))


class InteractionTensor:
    r"""Features of M networks on N data points: \(\Omega_{mnt} = 1\) if network m has feature t and point n holds it.

    A network's features are the first K principal components of its activations. Features of different networks whose
    scores on the data correlate by `gamma_corr` or more in absolute value are one feature: clusters in which every two
    do so (complete linkage, our reading of the paper's clustering; a network's own components do not correlate and so
    never fall together). A point holds a feature, as network m sees it, if its score,
    divided by the largest on any point, exceeds `gamma_data` in absolute value.

    Args:
        k: K, features of a network.
        gamma_corr, gamma_data: thresholds in (0, 1].

    Attributes:
        labels: (networks, K): the number t of each network's features.
        owners: (networks, T): which network has which feature.
        tensor: Ω, a sparse tensor of (networks, points, T), true where a point holds a feature.

    Raises:
        ValueError: k below 1, a threshold outside (0, 1]; in `fit`, fewer than two networks, different numbers of
            points, or what `principal_features` raises.

    Source: Jiang, Baek and Kolter, On the Joint Interaction of Models, Data, and Features (2023), section 3.
    """

    labels: Int[Tensor, "networks k"]
    owners: Bool[Tensor, "networks features"]
    tensor: Tensor

    def __init__(self, k: int = 10, gamma_corr: float = 0.7, gamma_data: float = 0.5) -> None:
        if k < 1:
            raise ValueError(f"k={k}: a network has one feature at least")
        for name, value in (("gamma_corr", gamma_corr), ("gamma_data", gamma_data)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}={value} is a threshold in (0, 1]")
        self.k, self.gamma_corr, self.gamma_data = k, gamma_corr, gamma_data

    def fit(self, activations: Sequence[Float[Tensor, "_ _"]]) -> InteractionTensor:
        """Find the features of networks from their activations on the same points."""
        from scipy.cluster.hierarchy import fcluster, linkage
        from scipy.spatial.distance import squareform

        if len(activations) < 2:
            raise ValueError(f"{len(activations)} network(s): an interaction needs two at least")
        counts = {len(a) for a in activations}
        if len(counts) > 1:
            raise ValueError(f"activations on {sorted(counts)} points: all networks see the same points")
        scores = torch.stack([principal_features(a, self.k) for a in activations])
        networks, points, k = scores.shape
        flat = scores.movedim(1, 0).flatten(1)
        apart = (1 - (flat.T @ flat / points).abs()).clamp(min=0).fill_diagonal_(0)
        tree = linkage(squareform(apart.numpy(), checks=False), "complete")
        found = fcluster(tree, 1 - self.gamma_corr + 1e-9, "distance") - 1
        count = int(found.max()) + 1
        self.labels = torch.from_numpy(found).long().view(networks, k)
        self.owners = torch.zeros(networks, count, dtype=torch.bool)
        self.owners.scatter_(1, self.labels, True)
        share = scores.abs() / scores.abs().amax(1, keepdim=True)
        network, point, component = torch.nonzero(share > self.gamma_data, as_tuple=True)
        places = torch.stack((network, point, self.labels[network, component])).unique(dim=1)
        self.tensor = torch.sparse_coo_tensor(
            places,
            torch.ones(places.shape[1], dtype=torch.bool),
            (networks, points, count),
            check_invariants=True,
        ).coalesce()
        return self

    @property
    def features(self) -> int:
        """T, how many different features the networks have."""
        return self.owners.shape[1]

    @property
    def frequency(self) -> Float[Tensor, " features"]:
        """The share of the networks that have each feature."""
        return self.owners.double().mean(0)

    @property
    def held(self) -> Float[Tensor, " points"]:
        """How many features each point holds, on average over the networks that look at it."""
        networks, points, _ = self.tensor.shape
        return self.tensor.indices()[1].bincount(minlength=points).double() / networks

    @property
    def shared(self) -> Float[Tensor, "networks networks"]:
        """How many features each two networks have in common."""
        own = self.owners.double()
        return own @ own.T
