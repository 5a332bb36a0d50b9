"""The Fisher matrix of a trained network, added up over batches, machines and files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.analysis.fisher import likelihood as targets_of
from gramian.analysis.fisher import per_sample, sinks
from gramian.analysis.fisher.select import check_modes, chosen
from gramian.analysis.fisher.store import read_state, write_state

__all__ = ["FisherAccumulator"]

_MAX_BLOCK = 2**13


class FisherAccumulator:
    r"""The Fisher matrix \(\frac1n\sum_n E_y[g_n g_n^\top]\), \(g_n = -\nabla\log p(y \mid x_n)\), or a part of it.

    Gradients are those of single samples (a sequence is one sample: its positions are added up first, then
    squared). Linear, convolution, embedding and norm layers take a fast path: one forward and one backward pass
    to activations give all samples' gradients. It is compared with plain autograd on two samples of the first
    batch; parameters on which the two disagree, and all others, go through ``vmap(grad)``, or a loop where that
    fails. The model is left as it was found.

    Args:
        model: in evaluation mode; parameters shared by several modules count once, with all their uses.
        kind: ``"diag"``; ``"block"``, one dense matrix a parameter; ``"window"``, the last `window` gradients
            themselves (M-FAC); ``"kfac"``, \(E[a a^\top]\) and \(E[g g^\top]\) of every linear and convolution layer
            (all positions count as samples of \(a\); a bias is a one appended to \(a\)).
        source: ``"empirical"``: the given targets. ``"true"``: the expectation over the model's own classes, exactly.
            ``"mc"``: targets drawn from the model.
        params: which parameters: a shell pattern or several, or a compiled regular expression (searched). Frozen
            ones are left out.
        loss: ``"categorical"`` (logits, cross-entropy), ``"gaussian"`` (regression with unit variance), or a function
            (outputs, targets) → the losses of the samples, (batch,), for the empirical source.
        forward: (model, inputs) → outputs; by default ``model(inputs)``, tuples and dictionaries unpacked, and of the
            result its ``logits``.
        gradients: ``"sample"``, or ``"batch"``: the square of each batch's mean gradient. That is not the Fisher
            matrix (its expectation shrinks with the batch), but what public unlearning code computes.
        method: ``"auto"``, or one of ``"fast"``, ``"vmap"``, ``"loop"`` alone.
        draws: targets drawn for each sample by ``"mc"``.
        window: rows kept by ``"window"``.
        max_bytes: what gradients of single samples may take at a time.
        generator: source of the drawn targets.

    Attributes:
        count: samples seen (batches, for ``gradients="batch"``).
        sums: the sums over them, by name.
        slow: parameters that did not take the fast path, known after the first update.

    Raises:
        ValueError: an unknown choice, a pattern that matches no trainable parameter, parameters on the meta device
            or of integer type, a layer in training mode that draws or mixes samples (dropout, batch norm).

    >>> model = nn.Linear(3, 2)
    >>> fisher = FisherAccumulator(model).update(torch.randn(8, 3), torch.randint(2, (8,)))
    >>> {name: tuple(f.shape) for name, f in fisher.value().items()}
    {'weight': (2, 3), 'bias': (2,)}
    """

    def __init__(
        self,
        model: nn.Module,
        kind: Literal["diag", "block", "window", "kfac"] = "diag",
        source: Literal["empirical", "true", "mc"] = "empirical",
        params: str | tuple[str, ...] | re.Pattern = "*",
        *,
        loss: Literal["categorical", "gaussian"] | targets_of.Loss = "categorical",
        forward: per_sample.Forward = per_sample.call,
        gradients: Literal["sample", "batch"] = "sample",
        method: Literal["auto", "fast", "vmap", "loop"] = "auto",
        draws: int = 1,
        window: int = 64,
        max_bytes: int = 2**28,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, value, allowed in (
            ("kind", kind, sinks.KINDS), ("source", source, targets_of.SOURCES),
            ("gradients", gradients, ("sample", "batch")), ("method", method, ("auto", "fast", "vmap", "loop")),
        ):  # fmt: skip
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
        if not callable(loss) and loss not in targets_of.LIKELIHOODS:
            raise ValueError(f"loss={loss!r} is neither a function nor one of {', '.join(targets_of.LIKELIHOODS)}")
        if callable(loss) and source != "empirical":
            raise ValueError(f"source={source!r} needs to know p(y | x): loss='categorical' or 'gaussian'")
        if gradients == "batch" and (source == "true" or kind == "kfac"):
            raise ValueError("gradients='batch' squares whole batches: source='empirical' or 'mc', and not kind='kfac'")
        if min(draws, window, max_bytes) < 1:
            raise ValueError(f"draws={draws}, window={window}, max_bytes={max_bytes}: each is at least 1")
        self.model, self.kind, self.source, self.loss, self.forward = model, kind, source, loss, forward
        self.gradients, self.method, self.draws, self.window = gradients, method, draws, window
        self.max_bytes, self.generator = max_bytes, generator
        self.parameters = sinks.factored(model, chosen(model, params)) if kind == "kfac" else chosen(model, params)
        if kind == "block":
            large = {n: p.numel() for n, p in self.parameters.items() if p.numel() > _MAX_BLOCK}
            if large:
                raise ValueError(
                    f"a dense block of {large} squared does not fit; take kind='kfac', or fewer parameters"
                )
        self.count = 0
        self.slow: set[str] = set()
        self._trusted = 0
        self.sums = sinks.make(kind, model, self.parameters, 0).sums

    # adding up

    def update(self, inputs: Any, targets: Any = None) -> FisherAccumulator:
        """Add a batch; returns itself. A batch that fails leaves the sums as they were.

        Args:
            inputs: a tensor, or a tuple or dictionary of tensors; the leading axis of each is the samples'.
            targets: what the loss compares the outputs with; for ``"mc"`` and ``"true"`` none is needed (positions
                whose target is -100 are left out by ``"mc"``).

        Raises:
            ValueError: no targets for the empirical source, or gradients that are NaN or infinite.
        """
        if self.source == "empirical" and targets is None and not callable(self.loss):
            raise ValueError("source='empirical' needs targets; without labels take source='mc' or 'true'")
        check_modes(self.model)
        samples = 1 if self.gradients == "batch" else per_sample.batch_size(inputs)
        multiple = self.kind == "window" and self.source != "empirical" and (self.source == "true" or self.draws > 1)
        if multiple:
            raise ValueError("kind='window' keeps one gradient a sample: source='empirical', or 'mc' with draws=1")
        sink = sinks.make(self.kind, self.model, self.parameters, samples)
        if self.gradients == "batch":
            self._square_of_batch(inputs, targets, sink)
        else:
            self._squares_of_samples(inputs, targets, sink)
        for name, new in sink.sums.items():
            if not torch.isfinite(new.sum()):
                raise ValueError(
                    f"the gradients of {name!r} are NaN, infinite, or too large to square: look for a bad sample or "
                    "a half-precision overflow (model.float() avoids the latter); the sums are as before this batch"
                )
        self._add(sink.sums, samples)
        return self

    def _losses(self, outputs: Any, targets: Any) -> Tensor:
        if not callable(self.loss):
            return targets_of.negative_log_likelihood(outputs, targets, self.loss)
        each = self.loss(outputs, targets)
        if each.ndim != 1:
            raise ValueError(f"loss= returns the loss of each sample, (batch,); it returned shape {tuple(each.shape)}")
        return each

    def _passes(self, outputs: Any, targets: Any) -> Any:
        return targets_of.passes(outputs, targets, self.source, self.loss, self.draws, self.generator)

    def _square_of_batch(self, inputs: Any, targets: Any, sink: sinks.Squares) -> None:
        wanted = list(self.parameters.values())
        with torch.enable_grad():
            outputs = self.forward(self.model, inputs)
            for drawn, weights in list(self._passes(outputs, targets)):
                total = self._losses(outputs, drawn).mean()
                found = torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
                scale = 1.0 if weights is None else float(weights[0]) ** 0.5
                for name, gradient in zip(self.parameters, found, strict=True):
                    sink.dense(name, 0, scale * gradient.to(sinks.wide(gradient)).unsqueeze(0))

    def _squares_of_samples(self, inputs: Any, targets: Any, sink: sinks.Squares) -> None:
        slow = dict(self.parameters)
        done: list[per_sample.Pass] | None = None
        if self.method in ("auto", "fast") or self.kind == "kfac":
            samples = per_sample.batch_size(inputs)
            if self._trusted < min(2, samples):
                self.slow |= self._disagreeing(
                    per_sample.select(inputs, slice(0, 2)), per_sample.select(targets, slice(0, 2))
                )
                self._trusted = min(2, samples)
            done, missed = self._fast(set(self.slow)).run(
                inputs, self.forward, lambda outputs: self._passes(outputs, targets), self._losses, sink
            )
            if missed - self.slow:  # seen by no hook this time: what was delivered of them is discarded
                self.slow |= missed
                fresh = sinks.make(self.kind, self.model, self.parameters, samples)
                sink.sums.clear()
                sink.__dict__.update(fresh.__dict__)
                return self._squares_of_samples(inputs, targets, sink)
            slow = {n: p for n, p in self.parameters.items() if n in self.slow}
            if slow and (self.method == "fast" or self.kind == "kfac"):
                raise ValueError(
                    f"the fast path does not reach {', '.join(list(slow)[:5])}; narrow params= to linear and "
                    "convolution layers" + ("" if self.kind == "kfac" else ", or take method='auto'")
                )
        if slow:
            if done is None:
                with torch.no_grad():
                    done = list(self._passes(self.forward(self.model, inputs), targets))
            for one in done:
                self._slowly(slow, inputs, one, sink)
        return None

    def _fast(self, without: set[str]) -> per_sample.FastPath:
        names = {id(p): n for n, p in self.parameters.items() if n not in without}
        path = per_sample.FastPath(self.model, names, self.max_bytes)
        self.slow |= set(names.values()) - path.parameters
        return path

    def _slowly(self, slow: dict[str, nn.Parameter], inputs: Any, one: per_sample.Pass, sink: sinks.Squares) -> None:
        arguments = (self.model, slow, inputs, one, self.forward, self._losses)
        if self.method != "loop":
            try:
                per_sample.by_vmap(*arguments, sink, self.max_bytes)
                return
            except RuntimeError:
                if self.method == "vmap":
                    raise
        per_sample.by_loop(*arguments, sink)

    def _disagreeing(self, inputs: Any, targets: Any) -> set[str]:
        """The parameters whose squared gradients by the fast path are not those of autograd, on a few samples."""
        state = None if self.generator is None else self.generator.get_state()
        fast, plain = sinks.Squares(self.parameters), sinks.Squares(self.parameters)
        path = self._fast(set())
        done, missed = path.run(
            inputs, self.forward, lambda outputs: list(self._passes(outputs, targets))[:1], self._losses, fast
        )
        if state is not None:
            self.generator.set_state(state)
        seen = {n: p for n, p in self.parameters.items() if n in path.parameters - missed}
        per_sample.by_loop(self.model, seen, inputs, done[0], self.forward, self._losses, plain)
        wrong = set(missed)
        # a gradient that is zero but for rounding (a key's bias in attention) tells nothing
        largest = max((float(t.norm()) for t in plain.sums.values()), default=0.0)
        for name, parameter in seen.items():
            tolerance = 1e-3 if parameter.dtype in (torch.float32, torch.float64) else 0.1
            gap = (fast.sums[name] - plain.sums[name]).norm()
            rounding = largest * (100 * torch.finfo(parameter.dtype).eps) ** 2
            if not gap <= tolerance * plain.sums[name].norm() + rounding:
                wrong.add(name)
        return wrong

    def _add(self, sums: dict[str, Tensor], samples: int) -> None:
        if self.kind == "window":
            self.sums["rows"] = torch.cat([self.sums["rows"], sums["rows"]])[-self.window :].clone()
        else:
            for name, new in sums.items():
                self.sums[name] += new
        self.count += samples

    # reading

    def value(self) -> Any:
        """What was measured: means over the samples.

        Returns:
            ``"diag"``: parameter → tensor of its shape. ``"block"``: parameter → square matrix. ``"window"``: the
            gradients (rows, parameters). ``"kfac"``: layer → (input factor, output factor), whose Kronecker product
            (weights row by row, the bias as last column) stands for the Fisher matrix.

        Raises:
            ValueError: nothing was added yet.
        """
        if not self.count:
            raise ValueError("nothing was added yet: call update() first")
        if self.kind == "window":
            return self.sums["rows"]
        if self.kind != "kfac":
            return {name: total / self.count for name, total in self.sums.items()}
        layers = [n.removesuffix(".inputs") for n in self.sums if n.endswith(".inputs")]
        return {
            name: (
                self.sums[f"{name}.inputs"] / float(self.sums[f"{name}.positions"]),
                self.sums[f"{name}.outputs"] / self.count,
            )
            for name in layers
        }

    def vector(self) -> Float[Tensor, " parameters"]:
        """The diagonal as one vector, the parameters side by side."""
        if self.kind != "diag":
            raise ValueError(f"vector() reads a diagonal; this accumulator's kind is {self.kind!r}")
        return torch.cat([f.flatten() for f in self.value().values()])

    # joining

    def merge(self, other: FisherAccumulator) -> FisherAccumulator:
        """Add what another accumulator saw; returns itself.

        Raises:
            ValueError: it measures something else.
        """
        self._agree(other.settings(), {n: t.shape for n, t in other.sums.items()}, "the other accumulator")
        self._add({n: t.to(self.sums[n].device) for n, t in other.sums.items()}, other.count)
        return self

    def all_reduce(self, group: Any = None) -> FisherAccumulator:
        """Add up what all processes of `torch.distributed` saw, on each of them; returns itself."""
        import torch.distributed as dist

        count = torch.tensor(float(self.count), dtype=torch.float64)
        if self.kind == "window":
            parts: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(parts, self.sums["rows"].cpu(), group=group)
            rows = torch.cat(parts)[-self.window :].to(self.sums["rows"].device)
            self.sums["rows"] = rows.clone()
        else:
            for name in sorted(self.sums):
                dist.all_reduce(self.sums[name], group=group)
        count = count.to(next(iter(self.sums.values())).device)
        dist.all_reduce(count, group=group)
        self.count = int(count.item())
        return self

    def settings(self) -> dict[str, str]:
        """What must agree between accumulators that are added up."""
        loss = self.loss if isinstance(self.loss, str) else getattr(self.loss, "__name__", "function")
        return {"kind": self.kind, "source": self.source, "loss": loss, "gradients": self.gradients}

    def _agree(self, settings: dict[str, str], shapes: dict[str, Any], what: str) -> None:
        for key, mine in self.settings().items():
            if settings.get(key) != mine:
                raise ValueError(f"{what} has {key}={settings.get(key)!r}, this one {key}={mine!r}")
        own = {n: t.shape for n, t in self.sums.items()}
        if self.kind == "window":
            own, shapes = ({n: s[1:] for n, s in of.items()} for of in (own, shapes))
        for name in sorted(set(own) ^ set(shapes)):
            raise ValueError(f"{name!r} is only in {'this accumulator' if name in own else what}: another architecture")
        for name, shape in own.items():
            if shape != shapes[name]:
                raise ValueError(f"{name!r} has shape {tuple(shapes[name])} in {what}, {tuple(shape)} here")

    # files

    def save(self, path: str | Path) -> Path:
        """Write sums, count and settings as safetensors, whole or not at all."""
        return write_state(path, self.sums, self.count, self.settings())

    def load(self, path: str | Path) -> FisherAccumulator:
        """Take the sums of a file in place of this accumulator's own; returns itself.

        Raises:
            ValueError: the file is damaged, or of another model, kind or source.
        """
        sums, count, settings = read_state(path)
        self._agree(settings, {n: t.shape for n, t in sums.items()}, str(path))
        self.sums = {n: sums[n].to(t.device) for n, t in self.sums.items()}
        self.count = count
        return self
