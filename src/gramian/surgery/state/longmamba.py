r"""LongMamba: channels that remember far keep only their important tokens, so that they do so in longer texts too.

A channel's state after S tokens holds what it read first times \(\exp(A \sum_t \Delta_t)\). A channel for which this is
still large at the length of training is *global*. In a text longer than that, the sum grows beyond anything that was
trained for; LongMamba drops tokens with a small \(\Delta_t\) from the global channels (\(\Delta_t := 0\): the state is
left as it is), just so many that the sum stays what it was.

Source: Ye et al., "LongMamba: Enhancing Mamba's Long Context Capabilities via Training-Free Receptive Field
Enlargement", 2025, section 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gramian.surgery.state import steps
from gramian.surgery.swap import Handle

__all__ = ["ChannelSteps", "NoGlobalChannel", "calibrate", "enlarge", "threshold"]


class NoGlobalChannel(UserWarning):
    """No channel remembers far enough to be filtered: the model is left as it is."""


@dataclass(frozen=True)
class ChannelSteps:
    """How a layer's channels (Mamba-2: heads) step over texts of the calibration's length.

    Attributes:
        decay: what is left of the first token after the whole text, meaned over states and texts.
        profile: the step sizes of a text in falling order, meaned over texts.
    """

    decay: Float[Tensor, " channels"]
    profile: Float[Tensor, "channels length"]

    @property
    def length(self) -> int:
        """The calibration's length."""
        return self.profile.shape[1]

    @property
    def total(self) -> Float[Tensor, " channels"]:
        """The mean sum of the step sizes of a text."""
        return self.profile.sum(1)


def calibrate(
    model: nn.Module, ids: Int[Tensor, "samples length"], mask: Bool[Tensor, "samples length"] | None = None
) -> dict[str, ChannelSteps]:
    """Run texts of the length of training through a model and keep how each channel steps.

    Args:
        model: any model of `Mamba` or `Mamba2` layers that takes ids.
        ids: texts without padding, of the length that the model was trained at.
        mask: where a tokenizer gives one; it must be True throughout.

    Returns:
        by the layers' names.

    Raises:
        ValueError: padding, fewer than two tokens, or a model without such layers.
    """
    if mask is not None and not bool(mask.all()):
        row = int((~mask.all(1)).nonzero()[0])
        raise ValueError(f"text {row} is padded: padding steps too. Give texts of one length, without padding")
    if ids.shape[1] < 2:
        raise ValueError(f"texts of {ids.shape[1]} tokens; calibrate at the length of training")
    seen: dict[str, list[Tensor]] = {}
    layers: dict[str, nn.Module] = {}

    def recorder(name: str, layer: nn.Module) -> steps.Watch:
        seen[name], layers[name] = [], layer

        def record(delta: Tensor, fresh: bool) -> None:
            seen[name].append(delta.detach().double().mT)

        return record

    with steps.watch(model, recorder), torch.no_grad():
        for text in ids.split(1):  # one at a time: memory of a text, whatever their number
            model(text)
    found = {}
    for name, pieces in seen.items():
        delta = torch.cat(pieces)
        decay = torch.exp(-delta.sum(-1)[..., None] * steps.rates(layers[name])).mean((0, 2))
        found[name] = ChannelSteps(decay, delta.sort(-1, descending=True).values.mean(0))
    return found


def threshold(
    profile: Float[Tensor, "channels length"], length: int, clamp: float | None = None
) -> Float[Tensor, " channels"]:
    """The smallest step size that a channel keeps in a text of `length` tokens; 0 up to the calibrated length.

    The sorted step sizes are stretched to the new length by linear interpolation; of them as many of the largest are
    kept as together step no further than the calibration did.

    Args:
        profile: step sizes in falling order, as of `ChannelSteps`.
        clamp: a share of tokens, such as 0.05: larger step sizes than this quantile from the top are cut to it first,
            so that a few large ones do not use the sum up.

    Raises:
        ValueError: a negative step size, a length below 1, a share outside (0, 1).
    """
    if bool((profile < 0).any()):
        raise ValueError(f"step sizes are at least 0; the smallest given is {float(profile.min()):g}")
    if length < 1:
        raise ValueError(f"length={length}: a text has at least one token")
    if clamp is not None and not 0 < clamp < 1:
        raise ValueError(f"clamp={clamp} is a share of tokens between 0 and 1")
    known = profile.shape[1]
    if length <= known:
        return profile.new_zeros(len(profile))
    if clamp is not None:
        profile = torch.minimum(profile, torch.quantile(profile, 1 - clamp, dim=1, keepdim=True))
    stretched = nn.functional.interpolate(profile[None], size=length, mode="linear", align_corners=True)[0]
    past = stretched.cumsum(1) > profile.sum(1, keepdim=True)
    first = torch.where(past.any(1), past.int().argmax(1), length - 1)
    return stretched.gather(1, first[:, None])[:, 0]


class _Filter:
    """The watch of one layer: which tokens its global channels keep."""

    def __init__(self, known: ChannelSteps, c: float, lengths: tuple[int, ...] | None, clamp: float | None) -> None:
        self.known, self.clamp = known, clamp
        self.wide = known.decay > c
        self.closed = lengths is not None
        self.bounds = {n: threshold(known.profile, n, clamp) for n in lengths or ()}
        self.length = known.length

    def __call__(self, delta: Tensor, fresh: bool) -> Tensor | None:
        if fresh:  # what follows the beginning (further pieces, single steps) is filtered as the beginning was
            self.length = delta.shape[1]
        if self.length <= self.known.length or not bool(self.wide.any()):
            return None
        if self.length not in self.bounds:
            if self.closed:
                known = ", ".join(map(str, sorted(self.bounds)))
                raise ValueError(f"no threshold for {self.length} tokens, only for {known}: give lengths=None for any")
            self.bounds[self.length] = threshold(self.known.profile, self.length, self.clamp)
        wide = self.wide.to(delta.device)
        return (delta >= self.bounds[self.length].to(delta)) | ~wide


def enlarge(
    model: nn.Module,
    known: Mapping[str, ChannelSteps],
    c: float,
    lengths: Iterable[int] | None = None,
    clamp: float | None = None,
) -> Handle:
    """Filter the tokens of global channels in texts longer than the calibration's, in place.

    Texts up to that length pass unchanged, bit for bit, and so do the other channels' states in longer ones. A text
    read in pieces is filtered by the length of its first piece.

    Args:
        known: from `calibrate`.
        c: channels whose `ChannelSteps.decay` is above are global; 1 filters none.
        lengths: the lengths to prepare; others then are refused. Without, any length is prepared when it comes.
        clamp: as of `threshold`.

    Returns:
        a handle; ``undo()`` takes the filter out.

    Raises:
        ValueError: layers that were not calibrated, c outside [0, 1], or as `threshold`; when run, a length that is
            not prepared.

    Warns:
        NoGlobalChannel: no channel of any layer is above c.
    """
    if not 0 <= c <= 1:
        raise ValueError(f"c={c} is what a channel remembers: between 0 and 1")
    prepared = None if lengths is None else tuple(sorted(set(lengths)))
    if not any(bool((k.decay > c).any()) for k in known.values()):
        largest = max((float(k.decay.max()) for k in known.values()), default=0.0)
        warnings.warn(f"no channel decays to more than c={c}; the most is {largest:.3g}", NoGlobalChannel, stacklevel=2)

    def make(name: str, layer: nn.Module) -> steps.Watch:
        if name not in known:
            raise ValueError(f"{name} was not calibrated; calibrate this very model first")
        return _Filter(known[name], c, prepared, clamp)

    return steps.watch(model, make)
