"""What is kept of the gradients of single samples: squares, blocks, rows, or Kronecker factors; all of them sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gramian.analysis.fisher import layers

KINDS = ("diag", "block", "window", "kfac")


class Squares:
    """Sums of squared gradients, in the parameters' shapes."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters = parameters
        self.sums = {name: torch.zeros_like(p, dtype=wide(p), requires_grad=False) for name, p in parameters.items()}

    def uses(self, name: str, found: list[layers.Use], samples: int, chunk: int) -> None:
        if len(found) == 1:
            found[0].add_squares(self.sums[name], samples, chunk)
        else:
            deliver_dense(self, name, found, samples, chunk)

    def dense(self, name: str, start: int, gradients: Tensor) -> None:
        if len(gradients) == 1:
            self.sums[name].addcmul_(gradients[0], gradients[0])
        else:
            self.sums[name] += gradients.to(self.sums[name].dtype).square().sum(0)

    def factors(self, name: str, layer: nn.Module, x: Tensor, g: Tensor, first: bool) -> None:
        pass


class Blocks(Squares):
    r"""Sums of \(g g^\top\), one square matrix a parameter."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters = parameters
        self.sums = {n: p.new_zeros(p.numel(), p.numel(), dtype=wide(p)) for n, p in parameters.items()}

    def uses(self, name: str, found: list[layers.Use], samples: int, chunk: int) -> None:
        deliver_dense(self, name, found, samples, chunk)

    def dense(self, name: str, start: int, gradients: Tensor) -> None:
        flat = gradients.flatten(1).to(self.sums[name].dtype)
        self.sums[name].addmm_(flat.mT, flat)


class Rows(Squares):
    """The gradients themselves: one row a sample, the parameters side by side in their order."""

    def __init__(self, parameters: dict[str, nn.Parameter], samples: int) -> None:
        self.parameters = parameters
        sizes = [p.numel() for p in parameters.values()]
        self.places = dict(zip(parameters, torch.tensor([0, *sizes]).cumsum(0).tolist(), strict=False))
        first = next(iter(parameters.values()))
        self.rows = torch.zeros(samples, sum(sizes), dtype=wide(first), device=first.device)
        self.sums = {"rows": self.rows}

    def uses(self, name: str, found: list[layers.Use], samples: int, chunk: int) -> None:
        deliver_dense(self, name, found, samples, chunk)

    def dense(self, name: str, start: int, gradients: Tensor) -> None:
        at = self.places[name]
        flat = gradients.flatten(1)
        self.rows[start : start + len(flat), at : at + flat.shape[1]] += flat


class Factors(Squares):
    r"""Sums of \(a a^\top\) over samples and positions, and of \(g g^\top\), with a one appended to a for a bias."""

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters = parameters
        self.wanted = {id(p) for p in parameters.values()}
        self.sums: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            if id(getattr(module, "weight", None)) not in self.wanted or type(module) not in KRONECKER:
                continue
            weight = module.weight
            inputs = weight[0].numel() + (module.bias is not None and id(module.bias) in self.wanted)
            self.sums[f"{name}.inputs"] = weight.new_zeros(inputs, inputs, dtype=wide(weight))
            self.sums[f"{name}.outputs"] = weight.new_zeros(len(weight), len(weight), dtype=wide(weight))
            self.sums[f"{name}.positions"] = weight.new_zeros((), dtype=torch.float64)

    def uses(self, name: str, found: list[layers.Use], samples: int, chunk: int) -> None:
        pass

    def factors(self, name: str, layer: nn.Module, x: Tensor, g: Tensor, first: bool) -> None:
        if f"{name}.inputs" not in self.sums:
            return
        inputs, outputs = self.sums[f"{name}.inputs"], self.sums[f"{name}.outputs"]
        x, g = x.detach().to(inputs.dtype), g.to(inputs.dtype)
        if isinstance(layer, nn.Linear):
            g = g.reshape(-1, g.shape[-1])
            a = x.reshape(-1, x.shape[-1])
        else:
            a = layers.patches(layer, layers.padded(layer, x)).mT.flatten(0, 1)
            g = g.flatten(2).mT.flatten(0, 1)
        outputs.addmm_(g.mT, g)
        if first:
            if len(inputs) > a.shape[1]:
                a = torch.cat([a, a.new_ones(len(a), 1)], 1)
            inputs.addmm_(a.mT, a)
            self.sums[f"{name}.positions"] += len(a)


KRONECKER = (nn.Linear, nn.Conv1d, nn.Conv2d)


def factored(model: nn.Module, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Those of the parameters that belong to layers with Kronecker factors, if their weight is among them.

    Raises:
        ValueError: there is none, or a grouped convolution, whose Fisher matrix has no two such factors.
    """
    names = {id(p): n for n, p in parameters.items()}
    kept: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if type(module) in KRONECKER and id(module.weight) in names:
            if getattr(module, "groups", 1) > 1:
                raise ValueError(f"{name!r} is a grouped convolution, which kind='kfac' does not factor: leave it out")
            kept |= {names[id(p)]: p for p in module.parameters() if id(p) in names}
    if not kept:
        raise ValueError("kind='kfac' needs the weight of a linear or convolution layer among the parameters")
    return kept


def wide(parameter: Tensor) -> torch.dtype:
    """The dtype that sums over a parameter's gradients are kept in: float32 at least."""
    return torch.promote_types(parameter.dtype, torch.float32)


def deliver_dense(sink: Squares, name: str, found: list[layers.Use], samples: int, chunk: int) -> None:
    """The gradients of all uses of a parameter added up, then handed over in chunks of samples."""
    chunk = max(1, chunk // len(found))
    for start in range(0, samples, chunk):
        stop = min(start + chunk, samples)
        gradients = found[0].dense(start, stop)
        for use in found[1:]:
            gradients = gradients + use.dense(start, stop)
        sink.dense(name, start, gradients)


def make(kind: str, model: nn.Module, parameters: dict[str, nn.Parameter], samples: int) -> Squares:
    """An empty sink of a kind."""
    if kind == "window":
        return Rows(parameters, samples)
    if kind == "kfac":
        return Factors(model, parameters)
    return Blocks(parameters) if kind == "block" else Squares(parameters)
