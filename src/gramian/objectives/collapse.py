"""Regularizers that bring neural collapse about: features to their class means, class means far apart."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["ClassMeans", "CollapseTerms", "NCRegularizer", "SimplexImpossible", "min_angle", "within_class"]


class SimplexImpossible(UserWarning):
    """The features have too few dimensions for a regular simplex of so many classes."""


class CollapseTerms(NamedTuple):
    """The two terms and their weighted sum."""

    total: Float[Tensor, ""]
    within: Float[Tensor, ""]
    between: Float[Tensor, ""]


class ClassMeans(nn.Module):
    r"""Running means of the features of each class: \(\mu_k \leftarrow m\,\mu_k + (1 - m)\,\bar h_k\).

    A class's first batch sets its mean; a class that is absent from a batch keeps it. Gradients flow through the
    batch's part. In evaluation mode nothing is updated.

    Args:
        classes, dim: of the means.
        momentum: m in [0, 1); 0 uses the batch's own means.

    Raises:
        ValueError: fewer than two classes, or a momentum out of range; in `forward`, labels out of range.
    """

    means: Tensor
    seen: Tensor

    def __init__(self, classes: int, dim: int, momentum: float = 0.9) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes={classes}: at least two are needed")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must lie in [0, 1)")
        self.classes, self.momentum = classes, float(momentum)
        self.register_buffer("means", torch.zeros(classes, dim))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "classes dim"]:
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= self.classes):
            raise ValueError(
                f"labels from {int(labels.min())} to {int(labels.max())} do not fit {self.classes} classes, "
                f"numbered 0 … {self.classes - 1}"
            )
        member = nn.functional.one_hot(labels.long(), self.classes).to(features.dtype)
        counts = member.sum(0)
        present = counts > 0
        batch = (member.T @ features) / counts.clamp(min=1)[:, None]
        old = self.means.to(features.dtype)
        share = torch.where(self.seen, self.momentum, 0.0).to(features.dtype)[:, None]
        means = torch.where(present[:, None], share * old + (1 - share) * batch, old)
        if self.training:
            with torch.no_grad():
                self.means.copy_(means)
                self.seen |= present
        return means


def within_class(
    features: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"], means: Float[Tensor, "classes dim"]
) -> Float[Tensor, ""]:
    r"""\(\frac1{|C|}\sum_{k \in C} \frac1{n_k}\sum_{y_i = k} \|h_i - \mu_k\|^2\), C the classes present.

    Every class counts alike, however many samples of it the batch holds; zero for an empty batch.
    """
    if len(features) == 0:
        return features.sum()
    member = nn.functional.one_hot(labels.long(), len(means)).to(features.dtype)
    counts = member.sum(0)
    weights = (1 / counts.clamp(min=1))[labels.long()] / (counts > 0).sum()
    return (weights * (features - means[labels.long()]).square().sum(1)).sum()


def min_angle(means: Float[Tensor, "classes dim"]) -> Float[Tensor, ""]:
    r"""Minus the mean over the classes of the smallest angle to another class, seen from the centre of the means.

    \[ -\frac1K\sum_i \min_{j \ne i} \angle(\mu_i - \mu_G,\ \mu_j - \mu_G) \]

    Least, −arccos(−1/(K − 1)), for a regular simplex. The angle of unit vectors u, v is taken as
    \(2\operatorname{atan2}(\|u - v\|, \|u + v\|)\), which is exact and whose gradient stays finite where theirs
    coincide or oppose each other, unlike that of arccos.

    Raises:
        ValueError: fewer than two classes.

    >>> from gramian.linalg.manifold.frames import simplex
    >>> round(float(min_angle(simplex(4)).cos()), 4)
    -0.3333
    """
    if len(means) < 2:
        raise ValueError("one class has no angle to another: at least two are needed")
    unit = nn.functional.normalize(means - means.mean(0), dim=1, eps=1e-12)
    one = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    apart = torch.linalg.vector_norm(unit[:, None] - unit, dim=-1)
    along = torch.linalg.vector_norm(unit[:, None] + unit, dim=-1)
    angles = 2 * torch.atan2(apart, along)
    return -angles.masked_fill(one, torch.inf).amin(1).mean()


class NCRegularizer(nn.Module):
    r"""\(\lambda_w\) · `within_class` + \(\lambda_b\) · `min_angle`, on running class means: add it to any loss.

    Args:
        classes, dim: of the labels and the features.
        within, between: \(\lambda_w\) and \(\lambda_b\).
        momentum: of the running means.

    Raises:
        ValueError: a negative weight, or what `ClassMeans` raises.

    Warns:
        SimplexImpossible: dim is below classes − 1.

    Source: "Inducing Neural Collapse in Deep Long-tailed Learning" (2023); the averages and the momentum are ours.

    >>> regularizer = NCRegularizer(classes=3, dim=2)
    >>> terms = regularizer(torch.eye(2)[[0, 0, 1]], torch.tensor([0, 0, 2]))
    >>> terms.within
    tensor(0.)
    """

    def __init__(
        self, classes: int, dim: int, within: float = 0.05, between: float = 0.5, momentum: float = 0.9
    ) -> None:
        super().__init__()
        if within < 0 or between < 0:
            raise ValueError(f"within={within} and between={between} must not be negative")
        if dim < classes - 1:
            message = (
                f"{classes} classes form no regular simplex in {dim} dimensions: at least {classes - 1} are needed"
            )
            warnings.warn(message, SimplexImpossible, stacklevel=2)
        self.centres = ClassMeans(classes, dim, momentum)
        self.within, self.between = float(within), float(between)

    def forward(self, features: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> CollapseTerms:
        means = self.centres(features, labels)
        near = within_class(features, labels, means)
        # classes that no batch has shown yet have no mean, and take no part
        known = self.centres.seen | (nn.functional.one_hot(labels.long(), len(means)).sum(0) > 0)
        apart = min_angle(means[known]) if int(known.sum()) > 1 else near * 0
        return CollapseTerms(self.within * near + self.between * apart, near, apart)
