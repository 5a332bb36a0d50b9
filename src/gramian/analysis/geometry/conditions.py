"""Geometry of a representation over conditions: whose kernel it has, and how abstractly it codes a variable.

Conditions are combinations of a few latent variables; a dichotomy cuts them into two sides. If the step from one side
to the other is the same vector in every context, a readout learned in some contexts works in the others.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["ccgp", "condition_means", "kernel_alignment", "parallelism_score"]


def kernel_alignment(x: Float[Tensor, "samples features"], y: Float[Tensor, "_ others"]) -> Float[Tensor, ""]:
    r"""Cosine of the centred linear kernels of two representations of the same samples, in [0, 1] (linear CKA).

    \(\langle K_x, K_y\rangle / (\|K_x\|\,\|K_y\|)\) with \(K = H X X^\top H\), H the centring. Neither rotation nor
    scale matters. It is computed in feature space, so no samples × samples matrix is formed.

    Raises:
        ValueError: different numbers of samples, or a side that is the same for all samples.

    Source: Cortes, Mohri and Rostamizadeh (2012), definition 4; Kornblith et al. (2019).

    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(float(kernel_alignment(x, x[:, :1])), 4)  # one of two equal directions: 1/√2
    0.7071
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} samples: both sides show the same samples, in the same order")
    x, y = _centred(x), _centred(y)
    return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def _centred(x: Tensor) -> Tensor:
    kind = torch.promote_types(x.dtype, torch.float64)
    wide = x.to(kind)
    wide = wide - wide.mean(0)
    if not bool(wide.abs().max() > 1e-12 * x.abs().max()):
        raise ValueError("a representation that is the same for all samples (or not finite) has no kernel to align")
    return wide


def condition_means(
    x: Float[Tensor, "samples features"], conditions: Int[Tensor, " samples"]
) -> Float[Tensor, "conditions features"]:
    """The mean representation of each condition, which are numbered from 0.

    Raises:
        ValueError: a negative number, or a condition without a sample.
    """
    if len(x) != len(conditions) or len(x) == 0 or int(conditions.min()) < 0:
        raise ValueError(f"{len(x)} samples and {len(conditions)} conditions, numbered from 0, must pair up")
    counts = conditions.bincount()
    if int(counts.min()) == 0:
        raise ValueError(f"condition {int(counts.argmin())} has no sample")
    sums = x.new_zeros(len(counts), x.shape[1]).index_add_(0, conditions.long(), x)
    return sums / counts[:, None]


def parallelism_score(
    means: Float[Tensor, "conditions features"], side: Bool[Tensor, " conditions"]
) -> Float[Tensor, ""]:
    r"""How parallel the steps between the two sides of a dichotomy are: 1 if a variable is coded by one direction.

    The conditions of one side are paired with those of the other; the score is the mean cosine between the coding
    vectors \(\mu_{i} - \mu_{\pi(i)}\) of different pairs, for the pairing \(\pi\) where it is largest.

    Args:
        side: True for the conditions on one side; both sides have equally many, two to six.

    Raises:
        ValueError: sides of unequal or unfit size, or two paired conditions with one mean.

    Source: Bernardi et al., The Geometry of Abstraction (2020), methods.

    >>> square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> parallelism_score(square, torch.tensor([True, True, False, False]))
    tensor(1.)
    """
    return _best_pairing(means, side)[0]


def _best_pairing(means: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """The score, and for each condition of the first side the number of its partner on the second."""
    first, second = means[side], means[~side]
    count = len(first)
    if len(second) != count or not 2 <= count <= 6:
        raise ValueError(f"sides of {count} and {len(second)} conditions: they must be equal, of two to six")
    orders = torch.tensor(list(itertools.permutations(range(count))), device=means.device)
    steps = first - second[orders]  # (pairings, pairs, features)
    lengths = steps.norm(dim=-1, keepdim=True)
    if not bool((lengths > 1e-12 * means.abs().max()).all()):
        raise ValueError(
            "two conditions on different sides have the same mean: no direction leads from one to the other"
        )
    steps = steps / lengths
    total = steps.sum(1).square().sum(-1) - count  # the sum of the cosines of different pairs, each twice
    best = total.max(0)
    return best.values / (count * (count - 1)), orders[best.indices]


def ccgp(
    x: Float[Tensor, "samples features"], conditions: Int[Tensor, " samples"], side: Bool[Tensor, " conditions"]
) -> float:
    """Cross-condition generalization: accuracy of a linear readout in a context that it was not trained in.

    A context is a pair of conditions, one of each side, matched as `parallelism_score` matches them. For each of them a
    linear support vector machine learns the sides from all other contexts and is tested in this one; the mean over the
    contexts. Chance is 1/2, and a readout that is misled does worse.

    Args:
        conditions: of each sample, numbered from 0.
        side: of each condition; both sides have equally many, two to six.

    Raises:
        ValueError: sides of unequal or unfit size, a condition without a sample, or two conditions with one mean.

    Source: Bernardi et al., The Geometry of Abstraction (2020); which conditions are held out together is our choice
    (the paper averages over choices, some of which leave nothing to tell a variable from its contexts).
    """
    from sklearn.svm import SVC

    means = condition_means(x, conditions)
    if len(side) != len(means):
        raise ValueError(f"{len(side)} sides for {len(means)} conditions")
    ones, zeros = torch.nonzero(side).flatten(), torch.nonzero(~side).flatten()
    partners = zeros[_best_pairing(means, side)[1]]
    wide = x.detach().double()
    spread = (wide - wide.mean(0)).square().mean().sqrt()
    rows, labels = ((wide - wide.mean(0)) / spread).cpu().numpy(), side[conditions.long()].cpu().numpy()
    found = []
    for one, zero in zip(ones.tolist(), partners.tolist(), strict=True):
        held = ((conditions == one) | (conditions == zero)).cpu().numpy()
        model = SVC(kernel="linear", C=10.0).fit(rows[~held], labels[~held])
        found.append(float(model.score(rows[held], labels[held])))
    return sum(found) / len(found)
