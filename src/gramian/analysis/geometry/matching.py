"""Do two networks learn the same units? One-to-one matches, sparse predictions, and groups of units."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.analysis.geometry.paired import PairedStatistics
from gramian.analysis.reducers import Keep
from gramian.analysis.taps import Taps
from gramian.linalg.kernels import run_tasks
from gramian.linalg.lasso_kernels import lasso_path

__all__ = [
    "CoClusters",
    "Matching",
    "SparsePrediction",
    "SparsePredictionNotConverged",
    "cocluster",
    "dense_predict",
    "explained",
    "match_units",
    "sparse_predict",
    "unit_stats",
]


class SparsePredictionNotConverged(UserWarning):
    """The coordinate descent used up its sweeps before the optimality conditions held."""


def unit_stats(
    first: nn.Module,
    second: nn.Module,
    batches: Iterable[Tensor],
    layers: tuple[str, str],
    *,
    reduce: Literal["tokens", "mean", "gap", "places", "none"] = "tokens",
) -> PairedStatistics:
    """Means, variances and correlations of the units of one layer in each of two networks, on the same data.

    Args:
        first, second: the networks, which are run in evaluation mode and left in their own.
        batches: inputs, at least one batch; both networks see each.
        layers: the module's dotted name in the first and in the second network.
        reduce: how an activation becomes samples of units, as `Taps` takes it: ``"places"`` for convolutions
            (every position a sample), ``"tokens"`` for (batch, …, units).

    Raises:
        ValueError: no batch, a name that no module or several have, or a layer that gives the two different
            numbers of samples.
    """
    stats = PairedStatistics()
    networks = (first, second)
    modes = [(m, m.training) for network in networks for m in network.modules()]
    try:
        for batch in batches:
            rows = []
            for network, layer in zip(networks, layers, strict=True):
                network.eval()
                with torch.no_grad(), Taps(network, {layer: [Keep()]}, reduce=reduce) as taps:
                    network(batch)
                names = list(taps)
                if len(names) != 1:
                    raise ValueError(f"{layer!r} names {len(names)} modules; give the name of one")
                keep = taps[names[0]][0]
                assert isinstance(keep, Keep)
                rows.append(keep.rows)
            stats.update(*rows)
    finally:
        for module, training in modes:
            module.training = training
    if stats.count == 0:
        raise ValueError("there was no batch: the units' statistics need data")
    return stats


@dataclass(frozen=True)
class Matching:
    """Pairs of units, and how they correlate.

    Attributes:
        first, second: unit numbers; pair i is (first[i], second[i]).
        values: the correlation of each pair.
    """

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    values: Float[Tensor, " pairs"]


def match_units(correlation: Float[Tensor, "first second"], kind: str = "assign") -> Matching:
    r"""Give each unit of the first network one of the second.

    ``"semi"``: each takes the unit that correlates most with it, whoever else takes it (a semi-matching).
    ``"assign"``: no unit is taken twice, and the sum of correlations is as large as it can be (a maximum-weight
    matching, by the Hungarian method). Of two networks of different widths the wider keeps units over.
    The mean of the first kind is never below that of the second.

    Raises:
        ValueError: an unknown kind, no unit, or NaN.

    Source: Li et al., Convergent Learning (2015), section 3.

    >>> match_units(torch.tensor([[0.9, 0.8], [0.7, 0.1]]), "assign").second.tolist()
    [1, 0]
    >>> match_units(torch.tensor([[0.9, 0.8], [0.7, 0.1]]), "semi").second.tolist()
    [0, 0]
    """
    if kind not in ("semi", "assign"):
        raise ValueError(f"kind={kind!r} is neither 'semi' nor 'assign'")
    if correlation.numel() == 0 or not bool(torch.isfinite(correlation).all()):
        raise ValueError("correlations to match units by must be finite, of one unit each at least")
    if kind == "semi":
        values, second = correlation.max(1)
        return Matching(torch.arange(len(correlation)), second, values)
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(correlation.double().cpu().numpy(), maximize=True)
    first, second = torch.from_numpy(rows), torch.from_numpy(columns)
    return Matching(first, second, correlation[first, second])


@dataclass(frozen=True)
class SparsePrediction:
    """Units of the second network as weighted sums of few units of the first.

    Attributes:
        alphas: the penalties, largest first.
        weights: one matrix a penalty.
        gaps: the violation of the optimality conditions that is left.
    """

    alphas: Float[Tensor, " alphas"]
    weights: Float[Tensor, "alphas first second"]
    gaps: Float[Tensor, "alphas second"]

    @property
    def used(self) -> Int[Tensor, "alphas second"]:
        """How many units each prediction reads."""
        return (self.weights != 0).sum(1)


def sparse_predict(
    within: Float[Tensor, "_ _"],
    cross: Float[Tensor, "first second"],
    alphas: Sequence[float],
    *,
    tolerance: float = 1e-8,
    max_sweeps: int = 2000,
) -> SparsePrediction:
    r"""Predict every unit of the second network from few of the first, by the lasso on second moments alone.

    For each unit y and each penalty α, by coordinate descent from the larger penalty's solution:

    \[ \min_w\; \tfrac12 w^\top S_{xx} w - w^\top S_{xy} + \alpha \|w\|_1, \]

    which is the lasso \(\frac1{2n}\|y - Xw\|^2 + \alpha\|w\|_1\) of centred data whose rows are gone.

    Args:
        within: covariance or correlation matrix of the first network's units.
        cross: covariance or correlation between the first and the second.
        alphas: penalties, positive; they are taken from the largest down.
        tolerance: what the optimality conditions may be off by, relative to the unit's largest entry of `cross`.
        max_sweeps: over all coordinates, for each penalty.

    Raises:
        ValueError: shapes that do not fit, no positive penalty, NaN, or a unit without variance.

    Source: Li et al., Convergent Learning (2015), section 4; the descent is Friedman et al. (2010), section 2.2.
    """
    if within.shape != (len(cross), len(cross)):
        raise ValueError(f"within is {tuple(within.shape)} and cross {tuple(cross.shape)}: their first axes must agree")
    if not alphas or min(alphas) <= 0:
        raise ValueError(f"alphas={alphas} must be positive, one at least; without a penalty take dense_predict")
    if not bool(torch.isfinite(within.sum() + cross.sum())):
        raise ValueError("the moments hold NaN or infinite numbers")
    if bool((within.diagonal() <= 0).any()):
        raise ValueError("a unit has no variance; leave such units out (stats.alive())")
    gram = np.ascontiguousarray(within.detach().double().cpu().numpy())
    targets = np.ascontiguousarray(cross.detach().double().cpu().numpy().T)
    path = np.array(sorted(alphas, reverse=True), dtype=np.float64)
    weights = np.zeros((len(path), len(targets), len(gram)))
    gaps = np.zeros((len(path), len(targets)))
    run_tasks(lasso_path, len(targets), gram, targets, path, tolerance, max_sweeps, weights, gaps)
    worst = float((gaps / np.maximum(np.abs(targets).max(1), 1e-300)).max())
    if worst > tolerance:
        warnings.warn(
            f"the sparse predictions are {worst:.2g} from optimal after {max_sweeps} sweeps, over {tolerance:g}: "
            "raise max_sweeps= or the smallest alpha",
            SparsePredictionNotConverged,
            stacklevel=2,
        )
    return SparsePrediction(
        torch.from_numpy(path), torch.from_numpy(weights).transpose(1, 2).contiguous(), torch.from_numpy(gaps)
    )


def dense_predict(
    within: Float[Tensor, "first first"], cross: Float[Tensor, "first second"]
) -> Float[Tensor, "first second"]:
    """The same without a penalty: weights of least squares, the smallest where several fit equally well."""
    return torch.linalg.pinv(within.double(), hermitian=True, rtol=1e-10) @ cross.double()


def explained(
    weights: Float[Tensor, "*alphas first second"],
    within: Float[Tensor, "first first"],
    cross: Float[Tensor, "first second"],
    variance: Float[Tensor, " second"],
) -> Float[Tensor, "*alphas second"]:
    r"""The share of each unit's variance that a prediction explains: \((2 w^\top S_{xy} - w^\top S_{xx} w)/s_{yy}\).

    Args:
        weights: of `sparse_predict` or `dense_predict`.
        within, cross: as there.
        variance: of the predicted units; ones where correlations were given.

    Raises:
        ValueError: a unit without variance.
    """
    if bool((variance <= 0).any()):
        raise ValueError("a unit without variance has nothing to explain; leave such units out (stats.alive())")
    w, within, cross = weights.double(), within.double(), cross.double()
    return (2 * (w * cross).sum(-2) - (w * (within @ w)).sum(-2)) / variance.double()


@dataclass(frozen=True)
class CoClusters:
    """Groups of units of both networks that go together.

    Attributes:
        labels: the group of every unit.
        eigenvalues: of the normalized Laplacian, smallest first; a gap after the k-th speaks for k groups.
        suggested: the k after which the gap is largest, among 2 … half of the units.
    """

    labels: Int[Tensor, " units"]
    eigenvalues: Float[Tensor, " units"]
    suggested: int


def cocluster(correlation: Float[Tensor, "units _"], k: int | None = None, *, seed: int = 0) -> CoClusters:
    """Spectral clustering of units by the sizes of their correlations.

    Args:
        correlation: of all units with each other, such as `PairedStatistics.joint_correlation`: its groups hold
            units of both networks.
        k: number of groups; by default what the eigenvalues suggest.
        seed: of the k-means that ends it.

    Raises:
        ValueError: a matrix that is not square and symmetric, NaN, fewer than three units, or k outside 2 … units.

    Source: Li et al., Convergent Learning (2015), section 5.
    """
    units = len(correlation)
    similarity = correlation.detach().double().abs().cpu()
    if correlation.shape != (units, units) or units < 3 or not bool(torch.isfinite(similarity).all()):
        raise ValueError(f"give a finite square matrix of three units at least, not {tuple(correlation.shape)}")
    if not torch.allclose(similarity, similarity.T, atol=1e-5):
        raise ValueError("the correlations of units with each other are symmetric; these are not")
    if k is not None and not 2 <= k <= units:
        raise ValueError(f"k={k} groups of {units} units: k must be between 2 and the number of units")
    from sklearn.cluster import SpectralClustering

    similarity = (similarity + similarity.T) / 2
    degree = similarity.sum(1).rsqrt()
    laplacian = torch.eye(units, dtype=torch.float64) - degree[:, None] * similarity * degree
    eigenvalues = torch.linalg.eigvalsh(laplacian)
    gaps = eigenvalues.diff()[1 : max(2, units // 2)]
    suggested = 2 + int(gaps.argmax())
    model = SpectralClustering(k or suggested, affinity="precomputed", random_state=seed, assign_labels="kmeans")
    labels = torch.from_numpy(model.fit_predict(similarity.numpy())).long()
    return CoClusters(labels, eigenvalues, suggested)
