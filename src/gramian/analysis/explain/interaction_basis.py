r"""The local interaction basis: coordinates of a layer that are ordered by how much the next layer depends on them.

For node layers \(f^1, …, f^L\) of a network, from the last to the first:

1. whiten: \(G = E[f f^T] = U D U^T\), \(R = U D^{-1/2}\) (directions that carry nothing are dropped);
2. ask what the next layer, already in its own basis, makes of the coordinates:
   \(M' = E[J^T J]\), \(J = \partial \hat f^{l+1} / \partial f^l\), \(M = R^+ M' R^{+T} = V \Lambda V^T\);
3. \(C = R V \Lambda^{1/2}\), \(\hat f = f C\) (directions that nobody reads are dropped).

Then \(E[\hat f \hat f^T] = \Lambda\) and the Jacobian's Gram matrix is the identity: a coordinate's size says how much
the network uses it. The basis does not depend on how the layer is parametrized, as principal components do. Biases
are folded into a constant coordinate, so that they take part. All is computed in float64.

Source: Bushnaq et al., "The Local Interaction Basis: Identifying Computationally-Relevant and Sparsely Interacting
Features in Neural Networks" (2024), sections 2 and 3.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["LocalInteractionBasis", "fold_biases"]

ELEMENTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.LeakyReLU, nn.Softplus, nn.ELU)


class _ButLast(nn.Module):
    """An elementwise function on all coordinates but the last, which is the constant one."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.function(x[..., :-1]), x[..., -1:]), -1)


def fold_biases(model: nn.Sequential) -> nn.Sequential:
    """A float64 copy without biases: inputs and layers have one coordinate more, at the end, that is always 1.

    Raises:
        TypeError: something else than a `torch.nn.Sequential`.
        ValueError: a layer that is neither linear nor an elementwise function.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    >>> x = torch.randn(5, 2, dtype=torch.float64)
    >>> folded = fold_biases(net)
    >>> bool(torch.allclose(folded(torch.cat((x, torch.ones(5, 1)), 1))[:, :-1], net(x)))
    True
    """
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"a torch.nn.Sequential is needed, whose layers follow each other; got {type(model).__name__}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            inputs, outputs = layer.in_features, layer.out_features
            weight = torch.zeros(outputs + 1, inputs + 1, dtype=torch.float64)
            weight[:-1, :-1] = layer.weight.detach()
            weight[-1, -1] = 1
            if layer.bias is not None:
                weight[:-1, -1] = layer.bias.detach()
            folded = nn.utils.skip_init(nn.Linear, inputs + 1, outputs + 1, bias=False, dtype=torch.float64)
            folded.weight = nn.Parameter(weight, requires_grad=False)
            layers[name] = folded
        elif isinstance(layer, ELEMENTWISE):
            layers[name] = _ButLast(layer)
        else:
            allowed = ", ".join(kind.__name__ for kind in (nn.Linear, *ELEMENTWISE))
            raise ValueError(f"layer {name!r} is a {type(layer).__name__}; biases can be folded through {allowed}")
    return nn.Sequential(layers).eval()


class LocalInteractionBasis:
    r"""The basis of each of some layers of a network whose layers follow each other.

    Args:
        model: a `torch.nn.Sequential` of linear layers and elementwise functions, on inputs (samples, features). It
            is copied.
        node_layers: names of its children whose outputs are described, in their order. Each is seen from the next,
            the last one by its principal components.
        threshold: eigenvalues below this share of the largest are dropped.

    Attributes:
        bases: C by layer, (features + 1, directions): the last feature is the constant.
        sizes: Λ by layer, largest first.

    Raises:
        TypeError, ValueError: as `fold_biases`; layers that are not there, fewer than two, or out of order.

    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> basis = LocalInteractionBasis(net, ["1", "2"]).fit(torch.randn(100, 4))
    >>> basis.transform(torch.randn(3, 4), "1").shape
    torch.Size([3, 3])
    """

    def __init__(self, model: nn.Sequential, node_layers: Sequence[str], threshold: float = 1e-10) -> None:
        folded = fold_biases(model)
        names = [name for name, _ in folded.named_children()]
        missing = [n for n in node_layers if n not in names]
        if missing:
            raise ValueError(f"no layer is called {', '.join(missing)}; there are {', '.join(names)}")
        places = [names.index(n) for n in node_layers]
        if len(places) < 2 or places != sorted(set(places)):
            raise ValueError(f"node_layers={list(node_layers)}: two or more, in the order of the network")
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold={threshold} is a share of the largest eigenvalue: in [0, 1)")
        self.threshold, self.names = threshold, tuple(node_layers)
        layers = list(folded)
        cuts = [-1, *places]
        self._before = [nn.Sequential(*layers[a + 1 : b + 1]) for a, b in zip(cuts, places, strict=False)]
        self._after = nn.Sequential(*layers[places[-1] + 1 :])
        self.bases: dict[str, Float[Tensor, "features directions"]] = {}
        self.sizes: dict[str, Float[Tensor, " directions"]] = {}
        self._grams: dict[str, tuple[Tensor, Tensor]] = {}
        self._back: dict[str, Tensor] = {}

    def fit(self, inputs: Float[Tensor, "samples features"], chunk: int = 256) -> LocalInteractionBasis:
        """Find the bases on these inputs.

        Args:
            chunk: samples whose Jacobians are held at once.

        Raises:
            ValueError: no sample, NaN, or a layer that the next one does not depend on at all.
        """
        states = self._states(inputs)
        for name, f in zip(self.names, states, strict=True):
            sizes, axes = torch.linalg.eigh(f.mT @ f / len(f))
            self._grams[name] = (sizes.flip(0).clamp_min(0), axes.flip(1))
        following: Tensor | None = None
        for number in range(len(self.names) - 1, -1, -1):
            name = self.names[number]
            sizes, axes = self._grams[name]
            kept = sizes > self.threshold * sizes[0]
            sizes, axes = sizes[kept], axes[:, kept]
            if following is None:
                basis, self.sizes[name], back = axes, sizes, axes.mT
            else:
                whiten, color = axes / sizes.sqrt(), (axes * sizes.sqrt()).mT  # R and R⁺
                seen = self._seen(self._before[number + 1], following, states[number], chunk)
                used, turn = torch.linalg.eigh(color @ seen @ color.mT)
                used, turn = used.flip(0), turn.flip(1)
                if not float(used[0]) > 0:
                    raise ValueError(f"layer {name!r}: nothing in the next one depends on it")
                read = used > self.threshold * used[0]
                used, turn = used[read], turn[:, read]
                basis, self.sizes[name] = whiten @ turn * used.sqrt(), used
                back = (turn / used.sqrt()).mT @ color
            self.bases[name], self._back[name] = basis, back
            following = basis
        return self

    def transform(self, inputs: Float[Tensor, "samples features"], layer: str) -> Float[Tensor, "samples directions"]:
        """f̂ of a layer, largest size first."""
        return self._states(inputs)[self._number(layer)] @ self.bases[layer]

    def ablate(
        self,
        inputs: Float[Tensor, "samples features"],
        layer: str,
        keep: int,
        *,
        basis: Literal["interaction", "principal"] = "interaction",
    ) -> Float[Tensor, "samples outputs"]:
        """The network's outputs with only the `keep` largest directions of a layer, the others at zero.

        Args:
            basis: ``"principal"`` takes the principal components of the layer (uncentred) instead.

        Raises:
            ValueError: a negative number of directions, or an unknown basis.
        """
        number = self._number(layer)
        if keep < 0:
            raise ValueError(f"keep={keep}: a number of directions")
        if basis == "interaction":
            into, back = self.bases[layer][:, :keep], self._back[layer][:keep]
        elif basis == "principal":
            axes = self._grams[layer][1][:, :keep]
            into, back = axes, axes.mT
        else:
            raise ValueError(f"basis={basis!r} is not one of 'interaction', 'principal'")
        f = self._states(inputs)[number] @ into @ back
        with torch.no_grad():
            for section in (*self._before[number + 1 :], self._after):
                f = section(f)
        return f[:, :-1]

    def edges(
        self,
        inputs: Float[Tensor, "samples features"],
        layer: str,
        *,
        method: Literal["gradient", "integrated"] = "gradient",
        points: int = 8,
        chunk: int = 256,
    ) -> Float[Tensor, "following directions"]:
        r"""How much each direction of the next node layer interacts with each of this one.

        \(E_{ij} = E[(\frac{\partial \hat f^{l+1}_i}{\partial \hat f^l_j} \hat f^l_j)^2]\); ``"integrated"`` takes the
        mean slope on the way from zero to \(\hat f^l\) instead of the slope there (Gauss–Legendre quadrature). Through
        ReLU the two are the same: with folded biases a section is homogeneous.

        Raises:
            ValueError: the last node layer, an unknown method, or no point.
        """
        number = self._number(layer)
        if number == len(self.names) - 1:
            raise ValueError(f"{layer!r} is the last node layer: no edges leave it")
        if method not in ("gradient", "integrated") or points < 1:
            raise ValueError(f"method={method!r}, points={points}: 'gradient', or 'integrated' with at least one point")
        ways, weights = (torch.ones(1), torch.ones(1))
        if method == "integrated":
            ways, weights = (torch.from_numpy(t) / 2 for t in np.polynomial.legendre.leggauss(points))
            ways = ways + 0.5
        f_hat = self.transform(inputs, layer)
        back, section = self._back[layer], self._before[number + 1]
        following = self.bases[self.names[number + 1]]
        total = torch.zeros(following.shape[1], f_hat.shape[1], dtype=torch.float64)
        for some in f_hat.split(chunk):
            mean = torch.zeros((), dtype=torch.float64)
            for way, weight in zip(ways.double(), weights.double(), strict=True):
                mean = mean + weight * _jacobians(lambda z: section(z @ back) @ following, way * some)
            total += (mean * some[:, None]).square().sum(0)
        return total / len(f_hat)

    def _seen(self, section: nn.Module, following: Tensor, f: Tensor, chunk: int) -> Tensor:
        """M' = E[Jᵀ J]."""
        total = torch.zeros(f.shape[1], f.shape[1], dtype=torch.float64)
        for some in f.split(chunk):
            slopes = _jacobians(lambda z: section(z) @ following, some).flatten(0, 1)
            total += slopes.mT @ slopes
        return total / len(f)

    def _states(self, inputs: Tensor) -> list[Tensor]:
        """The features of every node layer, the constant last."""
        if inputs.ndim != 2 or not len(inputs) or not bool(torch.isfinite(inputs).all()):
            raise ValueError(f"inputs {tuple(inputs.shape)}: finite rows (samples, features) are needed")
        f = torch.cat((inputs.double(), torch.ones(len(inputs), 1, dtype=torch.float64)), 1)
        found = []
        with torch.no_grad():
            for section in self._before:
                f = section(f)
                found.append(f)
        return found

    def _number(self, layer: str) -> int:
        if layer not in self.names:
            raise ValueError(f"{layer!r} is not a node layer; there are {', '.join(self.names)}")
        if layer in self._grams and layer in self.bases:
            return self.names.index(layer)
        raise ValueError("the basis was not found yet: call fit first")


def _jacobians(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """∂f/∂x at each point, (samples, outputs, inputs)."""
    return torch.func.vmap(torch.func.jacrev(function))(points).detach()
