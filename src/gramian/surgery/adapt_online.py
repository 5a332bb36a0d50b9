"""Adapt a trained classifier to the data it meets, online and without labels: BN statistics, Tent, EATA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gramian.analysis.fisher.accumulator import FisherAccumulator
from gramian.optim.continual import FisherAnchor

__all__ = ["EATA", "BNAdapt", "Selection", "Tent", "affine_parameters", "entropy", "pseudo_label_fisher", "select"]

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_NORMS = (_BATCH_NORM, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm)

Tuner = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def affine_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Scales and shifts of all norm layers, by name: what test-time adaptation trains.

    Raises:
        ValueError: there is no norm layer with such parameters.
    """
    inside = {id(p) for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    found = {name: p for name, p in model.named_parameters() if id(p) in inside}
    if not found:
        raise ValueError("the model has no norm layer with scale and shift, and so nothing that can be adapted")
    return found


def entropy(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    r"""Shannon entropy \(-\sum_c p_c \ln p_c\) of the softmax, in nats."""
    logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


class Selection(NamedTuple):
    r"""Which samples of a batch are worth a gradient.

    Attributes:
        reliable: entropy below the margin.
        kept: reliable, and unlike the mean prediction so far.
        weights: \(e^{E_0 - E}\), 0 for samples that are not kept.
        mean: the moving mean of kept predictions after this batch; None while nothing was ever kept.
    """

    reliable: Bool[Tensor, " batch"]
    kept: Bool[Tensor, " batch"]
    weights: Float[Tensor, " batch"]
    mean: Float[Tensor, " classes"] | None


@torch.no_grad()
def select(
    logits: Float[Tensor, "batch classes"],
    mean: Float[Tensor, " classes"] | None,
    e0: float,
    eps: float,
    momentum: float = 0.9,
) -> Selection:
    r"""Choose reliable and non-redundant samples, and weigh them.

    Reliable: \(E(x) < E_0\). Non-redundant: \(|\cos(p(x), m)| < \epsilon\). The moving mean becomes
    \(0.9\,m + 0.1\,\bar p\) with the mean \(\bar p\) of the kept predictions (or \(\bar p\) itself, at first).

    Args:
        mean: m, or None at the beginning, when every prediction is new.

    Source: Niu et al. (2022), equations 3–6.
    """
    probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    entropies = entropy(logits)
    reliable = entropies < e0
    kept = reliable
    if mean is not None:
        kept = reliable & (torch.cosine_similarity(probabilities, mean[None], dim=-1).abs() < eps)
    if bool(kept.any()):
        new = probabilities[kept].mean(0)
        mean = new if mean is None else momentum * mean + (1 - momentum) * new
    return Selection(reliable, kept, (e0 - entropies).exp() * kept, mean)


@contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, batch norms with the statistics of the batch; mode and running statistics are put back."""
    modes = {module: module.training for module in model.modules()}
    held = {m: (m.running_mean, m.running_var) for m in modes if isinstance(m, _BATCH_NORM)}
    model.eval()
    try:
        for module in held:
            module.running_mean = module.running_var = None
        yield
    finally:
        for module, (running_mean, running_var) in held.items():
            module.running_mean, module.running_var = running_mean, running_var
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _trainable(model: nn.Module, wanted: Iterable[nn.Parameter]) -> Iterator[None]:
    """Only `wanted` need gradients; put back afterwards."""
    chosen = {id(p) for p in wanted}
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in before:
            p.requires_grad_(id(p) in chosen)
        yield
    finally:
        for p, needed in before:
            p.requires_grad_(needed)


def pseudo_label_fisher(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Float[Tensor, "..."]]:
    r"""Diagonal Fisher matrix of the affine parameters: mean of \((\partial_\theta \ln p(\hat y \mid x))^2\).

    The pseudo-label \(\hat y\) is the model's own most probable class, so that no labels are needed.

    Args:
        model: in evaluation mode.
        batches: unlabelled samples of the distribution that must not be forgotten; some hundreds suffice.

    Raises:
        ValueError: no norm layer, no batch, or a model in training mode.

    Source: Niu et al. (2022), equation 9 and the text below it.
    """
    affine = affine_parameters(model)
    with _trainable(model, affine.values()):
        fisher = FisherAccumulator(model, params=tuple(affine))
        for inputs in batches:
            with torch.no_grad():
                labels = model(inputs).argmax(-1)
            fisher.update(inputs, labels)
        return fisher.value()


class BNAdapt:
    """Predict with the batch's own statistics in all batch norms; nothing is trained.

    Raises:
        ValueError: the model has no batch norm.

    Source: Nado et al. (2020), Schneider et al. (2020).
    """

    def __init__(self, model: nn.Module) -> None:
        self.has_batch_norm = any(isinstance(m, _BATCH_NORM) for m in model.modules())
        if type(self) is BNAdapt and not self.has_batch_norm:
            raise ValueError("the model has no batch norm: its predictions do not depend on batch statistics")
        self.model = model
        self.seen = 0

    def step(self, x: Float[Tensor, "batch *sample"]) -> Float[Tensor, "batch classes"]:
        """Logits of a batch.

        Raises:
            ValueError: a batch of one sample, which has no statistics.
        """
        with torch.no_grad(), _batch_statistics(self.model):
            return self._logits(x).detach()

    def reset(self) -> None:
        """Forget what was seen."""
        self.seen = 0

    def _logits(self, x: Tensor) -> Tensor:
        if self.has_batch_norm and len(x) < 2:
            raise ValueError(f"a batch of {len(x)} has no statistics of its own: gather at least 2 samples")
        logits = self.model(x)
        if logits.ndim != 2 or logits.shape[1] < 2:
            shape = tuple(logits.shape)
            raise ValueError(f"the model's output has shape {shape}; (batch, classes) with 2 or more classes is needed")
        self.seen += len(x)
        return logits


class Tent(BNAdapt):
    r"""After each batch, one step on the norm layers' affine parameters down the mean entropy of its predictions.

    The model is changed in its affine parameters only; modes, running statistics, gradients and what needs them are
    as before after every step.

    Args:
        lr, momentum: of SGD.
        optimizer: parameters → optimizer, in SGD's place.

    Attributes:
        parameters: what is adapted, by name.
        seen: samples seen.
        backward_samples: samples whose entropy was descended.
        backwards: backward passes.

    Raises:
        ValueError: no norm layer with scale and shift.

    Source: Wang et al. (2021), section 3.
    """

    def __init__(
        self, model: nn.Module, *, lr: float = 2.5e-4, momentum: float = 0.9, optimizer: Tuner | None = None
    ) -> None:
        super().__init__(model)
        self.parameters = affine_parameters(model)
        self.optimizer = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum))
        self._start = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._tuner = self.optimizer(list(self.parameters.values()))
        self.backward_samples = self.backwards = 0

    def step(self, x: Float[Tensor, "batch *sample"]) -> Float[Tensor, "batch classes"]:
        """Logits of a batch, and then one step of adaptation.

        Raises:
            ValueError: a batch of one sample where there is a batch norm, or fewer than 2 classes.
        """
        with torch.enable_grad(), _batch_statistics(self.model), _trainable(self.model, self.parameters.values()):
            logits = self._logits(x)
            loss = self._loss(logits)
            if loss is not None:
                self._descend(loss)
        return logits.detach()

    def reset(self) -> None:
        """Put back the weights that the model came with, bit for bit, and forget all that was seen."""
        super().reset()
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(self._start[name])
        self._tuner = self.optimizer(list(self.parameters.values()))
        self.backward_samples = self.backwards = 0

    def _loss(self, logits: Tensor) -> Tensor | None:
        self.backward_samples += len(logits)
        return entropy(logits).mean()

    def _descend(self, loss: Tensor) -> None:
        parameters = list(self.parameters.values())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        before = [p.grad for p in parameters]
        try:
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient
            self._tuner.step()
        finally:
            for p, gradient in zip(parameters, before, strict=True):
                p.grad = gradient
        self.backwards += 1


class EATA(Tent):
    r"""Tent on the samples that are worth it, without forgetting.

    Of each batch, only reliable and non-redundant samples (`select`) count. The loss is the mean over them of
    \(e^{E_0 - E(x)} E(x)\), the weight not differentiated, plus \(\beta \sum_i F_i (\theta_i - \theta^0_i)^2\). Where
    no sample is kept there is no backward pass and no step.

    Args:
        fisher: diagonal Fisher matrix of affine parameters (`pseudo_label_fisher`); None leaves the anchor out (ETA).
        e0: entropy margin \(E_0\) in nats; by default 0.4 ln C for C classes.
        eps: largest cosine with the mean prediction: 0.05 for 1,000 classes, 0.4 for 10.
        beta: strength of the anchor: 2,000 for ImageNet, 1 for CIFAR-10.
        lr, momentum, optimizer: as in `Tent`.

    Attributes:
        mean: moving mean of kept predictions, None at first.
        reliable: samples that passed the entropy margin.
        last: the `Selection` of the last batch.

    Raises:
        ValueError: \(E_0 \le 0\), eps or beta out of range, no norm layer, or a Fisher matrix of other parameters.

    Source: Niu et al. (2022), equations 2–9.
    """

    def __init__(
        self,
        model: nn.Module,
        fisher: Mapping[str, Tensor] | None = None,
        e0: float | int | None = None,
        eps: float | int = 0.05,
        beta: float | int = 2000.0,
        *,
        lr: float = 2.5e-4,
        momentum: float = 0.9,
        optimizer: Tuner | None = None,
    ) -> None:
        super().__init__(model, lr=lr, momentum=momentum, optimizer=optimizer)
        if e0 is not None and not e0 > 0:
            raise ValueError(f"e0={e0} must be positive: no prediction has a lower entropy than 0")
        if not 0 < eps <= 1:
            raise ValueError(f"eps={eps} is a cosine in (0, 1]")
        if not beta >= 0:
            raise ValueError(f"beta={beta} must not be negative")
        unknown = [name for name in fisher or {} if name not in self.parameters]
        if unknown:
            raise ValueError(f"fisher names {', '.join(unknown[:5])}, which is no scale or shift of a norm layer here")
        self.e0, self.eps = e0, float(eps)
        self.anchor = FisherAnchor.of(model, fisher, beta) if fisher is not None else None
        self.mean: Tensor | None = None
        self.last: Selection | None = None
        self.reliable = 0

    def reset(self) -> None:
        """Put back the weights that the model came with, bit for bit; forget what was seen, the mean included."""
        super().reset()
        self.mean = self.last = None
        self.reliable = 0

    def _loss(self, logits: Tensor) -> Tensor | None:
        e0 = 0.4 * math.log(logits.shape[1]) if self.e0 is None else float(self.e0)
        self.last = select(logits.detach(), self.mean, e0, self.eps)
        self.mean = self.last.mean
        kept = int(self.last.kept.sum())
        self.reliable += int(self.last.reliable.sum())
        self.backward_samples += kept
        if not kept:
            return None
        loss = (self.last.weights * entropy(logits)).sum() / kept
        return loss if self.anchor is None else loss + self.anchor(self.model)
