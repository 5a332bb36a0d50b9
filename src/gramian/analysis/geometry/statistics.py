"""Sufficient statistics of labelled features: they stream, they merge, and every collapse measure reads them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["ClassStatistics", "class_statistics"]


class ClassStatistics:
    r"""Counts, means and scatter of every class, kept in float64 while batches pass.

    For class c with \(n_c\) rows: the mean \(\mu_c\), the spread \(\sum_i \|h_i - \mu_c\|^2\), and for all classes
    together the scatter matrix \(\sum_i (h_i - \mu_{y_i})(h_i - \mu_{y_i})^\top\). Batches are joined by Chan's
    formula, so the order and the size of the batches do not matter, and two objects of two shards merge. Gradients
    flow through if the features carry them.

    Args:
        classes: how many classes there are; labels are 0 … classes − 1.

    Attributes:
        counts: rows seen of each class.
        means: (classes, features); zero for a class that was not seen.
        spreads: summed squared distances to the class mean.
        scatter: (features, features), summed over all rows.

    Raises:
        ValueError: fewer than one class; in `update`, labels outside their range, NaN, or another width.

    >>> stats = ClassStatistics(2)
    >>> stats.update(torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0]]), torch.tensor([0, 0, 1]))
    >>> stats.means
    tensor([[1., 0.],
            [5., 1.]], dtype=torch.float64)
    """

    def __init__(self, classes: int) -> None:
        if classes < 1:
            raise ValueError(f"classes={classes}: there is at least one class")
        self.classes = classes
        self.counts = torch.zeros(classes, dtype=torch.int64)
        self.means = torch.zeros(classes, 0, dtype=torch.float64)
        self.spreads = torch.zeros(classes, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"]) -> None:
        """Take in a batch."""
        if len(features) == 0:
            return
        if int(labels.min()) < 0 or int(labels.max()) >= self.classes:
            raise ValueError(
                f"labels from {int(labels.min())} to {int(labels.max())} do not fit {self.classes} classes, "
                f"which are numbered 0 … {self.classes - 1}"
            )
        x = features.double()
        if not bool(torch.isfinite(x).all()):
            raise ValueError("the features hold NaN or infinite numbers")
        member = torch.nn.functional.one_hot(labels.long(), self.classes).double()
        counts = member.sum(0)
        # sums are taken about the batch's own mean: features far from the origin lose no digits
        middle = x.mean(0)
        means = (member.T @ (x - middle)) / counts.clamp(min=1)[:, None] + middle * (counts > 0)[:, None]
        centred = x - means[labels.long()]
        batch = ClassStatistics(self.classes)
        batch.counts, batch.means = counts.long(), means
        batch.spreads, batch.scatter = member.T @ centred.square().sum(1), centred.T @ centred
        self.merge(batch)

    def merge(self, other: ClassStatistics) -> None:
        """Take in what another object has seen; it must know as many classes and features."""
        if other.classes != self.classes:
            raise ValueError(f"{self.classes} and {other.classes} classes do not merge")
        if other.total == 0:
            return
        if self.total == 0:
            self.counts, self.means = other.counts.clone(), other.means.clone()
            self.spreads, self.scatter = other.spreads.clone(), other.scatter.clone()
            return
        if other.dim != self.dim:
            raise ValueError(f"features of {other.dim} numbers do not join those of {self.dim}")
        total = self.counts + other.counts
        share = other.counts.double() / total.clamp(min=1)  # whole numbers divide to float32
        weight = self.counts * share
        shift = other.means - self.means
        self.means = self.means + shift * share[:, None]
        self.spreads = self.spreads + other.spreads + weight * shift.square().sum(1)
        self.scatter = self.scatter + other.scatter + (shift * weight[:, None]).T @ shift
        self.counts = total

    @property
    def total(self) -> int:
        """Rows seen."""
        return int(self.counts.sum())

    @property
    def dim(self) -> int:
        """Features of a row."""
        return self.means.shape[1]

    def seen(self, least: int = 1) -> None:
        """Raise `ValueError` unless every class has at least `least` rows."""
        few = [c for c in range(self.classes) if int(self.counts[c]) < least]
        if few:
            what = "a mean" if least == 1 else "a variance"
            raise ValueError(
                f"{what} needs at least {least} row(s) of every class; class {few[0]} has {int(self.counts[few[0]])} "
                f"({len(few)} such classes). Leave these classes out, or give more rows"
            )

    @property
    def centred_means(self) -> Float[Tensor, "classes features"]:
        """Class means less the mean of the class means: every class counts alike, however many rows it has."""
        self.seen()
        return self.means - self.means.mean(0)

    @property
    def variances(self) -> Float[Tensor, " classes"]:
        r"""\(\mathrm{Var}_c = \frac1{n_c}\sum_i \|h_i - \mu_c\|^2\), the mean squared distance to the class mean."""
        self.seen(2)
        return self.spreads / self.counts

    @property
    def within(self) -> Float[Tensor, "features features"]:
        """The within-class covariance: the scatter over the number of rows."""
        self.seen()
        return self.scatter / self.total

    @property
    def between(self) -> Float[Tensor, "features features"]:
        """The covariance of the class means, every class counting alike."""
        centred = self.centred_means
        return centred.T @ centred / self.classes


def class_statistics(
    features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"], classes: int | None = None
) -> ClassStatistics:
    """The statistics of one labelled feature matrix.

    Args:
        classes: by default as many as the largest label says.

    Raises:
        ValueError: no row, or what `ClassStatistics.update` raises.
    """
    if len(features) == 0:
        raise ValueError("an empty feature matrix has no class statistics")
    found = ClassStatistics(int(labels.max()) + 1 if classes is None else classes)
    found.update(features, labels)
    return found
