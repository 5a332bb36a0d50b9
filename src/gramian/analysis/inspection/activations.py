"""What flows into the layers of a network: how many entries are quiet, and which features stick out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.analysis.inspection.matrices import split_name
from gramian.analysis.reducers import Reducer
from gramian.analysis.taps import Taps
from gramian.lab import progress_bar

QUIET = 0.1
"""An entry is quiet that is at most this fraction of its sample's root mean square."""


class Activity(Reducer):
    r"""How sparse the samples of a stream are, and how far its features differ in size.

    For each sample \(x\) of d features with root mean square \(r\): the share of exact zeros, the share of
    quiet entries \(|x_i| \le r/10\), and the participation \((\sum_i x_i^2)^2 / (d \sum_i x_i^4)\), which is 1
    where all entries are of one size and 1/d where one is alone. Samples of zeros count as all quiet.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sums = torch.zeros(3, dtype=torch.float64)  # zeros, quiet, participation, each summed over samples
        self._squares = torch.zeros(0, dtype=torch.float64)
        self._largest = torch.zeros(0)

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        if not len(x):
            return
        x = x.float()
        squares = x.square()
        mean = squares.mean(1, keepdim=True)
        fourth = squares.square().sum(1)
        share = squares.sum(1).square() / (x.shape[1] * fourth.clamp(min=torch.finfo(x.dtype).tiny))
        new = torch.stack(
            [(x == 0).double().mean(1).sum(), (squares <= QUIET**2 * mean).double().mean(1).sum(), share.double().sum()]
        )
        self._take(len(x), new, squares.double().sum(0), x.abs().amax(0))

    def merge(self, other: Reducer) -> None:
        self._same_kind(other)
        assert isinstance(other, Activity)
        if other.count:
            self._take(other.count, other._sums, other._squares, other._largest)

    def _take(self, count: int, sums: Tensor, squares: Tensor, largest: Tensor) -> None:
        first = self.count == 0
        self.count += count
        self._sums = self._sums + sums
        self._squares = squares if first else self._squares + squares
        self._largest = largest if first else torch.maximum(self._largest, largest)

    @property
    def zeros(self) -> float:
        """The mean share of exact zeros in a sample."""
        return self._mean(0)

    @property
    def quiet(self) -> float:
        """The mean share of quiet entries in a sample."""
        return self._mean(1)

    @property
    def participation(self) -> float:
        """The mean participation of a sample's entries."""
        return self._mean(2)

    @property
    def feature_sizes(self) -> Float[Tensor, " features"]:
        """The root mean square of each feature."""
        self._seen()
        return (self._squares / self.count).sqrt()

    @property
    def largest(self) -> Float[Tensor, " features"]:
        """The largest size of each feature."""
        self._seen()
        return self._largest

    @property
    def nbytes(self) -> int:
        return self._sums.nbytes + self._squares.nbytes + self._largest.nbytes

    def _mean(self, i: int) -> float:
        self._seen()
        return float(self._sums[i]) / self.count


@dataclass(frozen=True)
class Flow:
    """What flows into one layer.

    Attributes:
        name, depth, kind: as of its weight matrix.
        samples: how many positions were seen.
        zeros, quiet, participation: as in `Activity`.
        outlier_features: features whose size is over six times the median size.
        peak: the largest entry over the root mean square of all.
    """

    name: str
    depth: int | None
    kind: str
    samples: int
    zeros: float
    quiet: float
    participation: float
    outlier_features: int
    peak: float


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has its own mode again."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def inspect_activations(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    masks: Sequence[Tensor | None] | None = None,
    *,
    show_progress: bool | None = None,
) -> list[Flow]:
    """Describe what flows into every linear layer and convolution while the model reads the batches.

    The model is run in evaluation mode and gets its own mode back. Channels of pictures are features and
    their places samples.

    Raises:
        ValueError: no batch, or a model without such layers.
    """
    if not batches:
        raise ValueError("no batch to run the model on")
    flat = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    spatial = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    if not flat and not spatial:
        raise ValueError(f"a {type(model).__name__} has no linear layer or convolution to look into")
    taps = [
        Taps(model, {name: [Activity()] for name in names}, side="in", reduce=reduce)
        for names, reduce in ((flat, "tokens"), (spatial, "places"))
        if names
    ]
    with ExitStack() as stack, evaluated(model), torch.no_grad():
        for tap in taps:
            stack.enter_context(tap)
        marks = masks or [None] * len(batches)
        for batch, mask in progress_bar(list(zip(batches, marks)), "activations", show=show_progress):
            for tap in taps:
                tap.mask = mask if tap.reduce == "tokens" else None
            model(**batch)
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    seen = [(name, tap[name][0]) for tap in taps for name in tap if tap[name][0].count]
    return [_describe(name, kept) for name, kept in sorted(seen, key=lambda pair: order[pair[0]])]


def _describe(name: str, kept: Reducer) -> Flow:
    assert isinstance(kept, Activity)
    depth, kind = split_name(name)
    sizes = kept.feature_sizes
    overall = math.sqrt(float(sizes.square().mean()))
    return Flow(
        name, depth, kind, kept.count, kept.zeros, kept.quiet, kept.participation,
        outlier_features=int((sizes > 6 * sizes.median()).sum()),
        peak=float(kept.largest.max()) / overall if overall > 0 else 0.0,
    )  # fmt: skip
