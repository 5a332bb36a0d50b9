r"""GaLore and Natural GaLore: Adam in a low-dimensional subspace of the gradients, there with a natural gradient.

A gradient G is projected on a few of its singular directions, \(R = P^\top G\), the optimizer's moments are kept for R
alone, and its direction is carried back, \(P u\).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.factor.tensor import mode_product, unfold
from gramian.linalg.factor.window import WindowInverse

__all__ = ["GaLoreProjector", "NaturalGaLore", "galore_groups", "natural_direction"]

MODES = ("svd", "tucker", "online")
_BASIS = "basis_"


class GaLoreProjector:
    r"""The subspace that a parameter's gradients are projected on, renewed now and then.

    Args:
        rank: r. With ``"tucker"`` one number stands for every axis, an axis with fewer than r directions keeping all
            of them; or a sequence, one rank an axis.
        gap: how many steps a basis is kept; for ``"online"``, one over the length of the basis's own steps.
        mode: ``"svd"``: the shorter side of a matrix is projected on the leading singular vectors of the gradient at
            hand. ``"tucker"``: every axis of a tensor is, on those of the gradient's unfolding along it. ``"online"``:
            begun as ``"svd"``, then moved at each step down the slope of \(\|G - PP^\top G\|^2 / \|G\|^2\), and made
            orthonormal again by a QR decomposition: no further singular vectors are computed.

    Attributes:
        bases: axis → orthonormal columns.
        steps: gradients seen.

    Raises:
        ValueError: a rank or gap below 1, or an unknown mode.

    Source: Zhao et al., "GaLore" (2024), section 4; Das, "Natural GaLore" (2024).

    >>> projector = GaLoreProjector(rank=2)
    >>> gradient = torch.outer(torch.arange(3.0), torch.arange(5.0))
    >>> _ = projector.update(gradient)
    >>> projector.project(gradient).shape
    torch.Size([2, 5])
    >>> torch.allclose(projector.back(projector.project(gradient)), gradient, atol=1e-5)
    True
    """

    def __init__(self, rank: int | Sequence[int], gap: int = 200, mode: str = "svd") -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is not one of {', '.join(MODES)}")
        if not isinstance(rank, int) and mode != "tucker":
            raise ValueError(f"rank={tuple(rank)}: one rank an axis is for mode='tucker'; mode={mode!r} takes a number")
        if gap < 1 or min([rank] if isinstance(rank, int) else list(rank), default=0) < 1:
            raise ValueError(f"rank={rank} and gap={gap}: both are at least 1")
        self.rank, self.gap, self.mode = rank, gap, mode
        self.bases: dict[int, Tensor] = {}
        self.steps = 0

    def ranks(self, shape: Sequence[int]) -> dict[int, int]:
        """Axis → rank, for gradients of a shape.

        Raises:
            ValueError: fewer than two axes, more than two without ``mode="tucker"``, or a rank that is too large.
        """
        if len(shape) < 2:
            raise ValueError(
                f"a parameter of shape {tuple(shape)} has no matrix to project: put it in a group without rank"
            )
        if self.mode != "tucker":
            if len(shape) > 2:
                raise ValueError(f"a parameter of shape {tuple(shape)} is no matrix: give mode='tucker'")
            if self.rank > min(shape):
                raise ValueError(f"rank={self.rank} is above {min(shape)}, the shorter side of {tuple(shape)}")
            return {0 if shape[0] <= shape[1] else 1: self.rank}
        most = [min(side, math.prod(shape) // max(side, 1)) for side in shape]
        if isinstance(self.rank, int):
            if self.rank > max(most):
                raise ValueError(f"rank={self.rank} is above {max(most)}, the most of any axis of {tuple(shape)}")
            return {axis: min(self.rank, m) for axis, m in enumerate(most)}
        if len(self.rank) != len(shape) or any(r > m for r, m in zip(self.rank, most)):
            raise ValueError(f"ranks {tuple(self.rank)} for shape {tuple(shape)}: one an axis, at most {tuple(most)}")
        return dict(enumerate(self.rank))

    def update(self, gradient: Float[Tensor, "..."]) -> dict[int, Tensor] | None:
        r"""Count a step and move the basis where that is due.

        Returns:
            axis → \(P_{new}^\top P_{old}\), which turns what is kept in the old coordinates; None without a change.

        Raises:
            ValueError: a gradient that the rank does not fit.
        """
        due = self.mode == "online" or self.steps % self.gap == 0
        self.steps += 1
        if not due:
            return None
        work = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        old, fresh = self.bases, {}
        for axis, rank in self.ranks(gradient.shape).items():
            matrix = unfold(work, axis)
            if old and self.mode == "online":
                fresh[axis] = _moved(old[axis], matrix, 1 / self.gap)
            else:
                fresh[axis] = torch.linalg.svd(matrix, full_matrices=False).U[:, :rank].contiguous()
        self.bases = fresh
        return {axis: fresh[axis].mT @ old[axis] for axis in fresh} if old else None

    def project(self, gradient: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""\(P^\top G\) along each projected axis."""
        return _along({axis: basis.mT for axis, basis in self._known().items()}, gradient)

    def back(self, inside: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""\(P R\), of the gradient's own shape."""
        return _along(self._known(), inside)

    def _known(self) -> dict[int, Tensor]:
        if not self.bases:
            raise ValueError("the projector has seen no gradient yet: call update first")
        return self.bases


def _along(matrices: Mapping[int, Tensor], tensor: Tensor) -> Tensor:
    for axis, matrix in matrices.items():
        tensor = mode_product(tensor.to(matrix.dtype), matrix, axis)
    return tensor


def _moved(basis: Tensor, matrix: Tensor, length: float) -> Tensor:
    """One step of the basis down the share of the gradient that it misses."""
    unit = matrix / torch.linalg.matrix_norm(matrix).clamp_min(torch.finfo(matrix.dtype).tiny)
    pulled = unit @ (unit.mT @ basis)
    q, r = torch.linalg.qr(basis + 2 * length * (pulled - basis @ (basis.mT @ pulled)))
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)  # each direction keeps its sign


def natural_direction(window: WindowInverse, inside: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    r"""Push a projected gradient R; returns \((\lambda I + \sum_j r_j r_j^\top)^{-1} r\) for it, r = vec(R).

    As r is the newest column of the window, the product is taken in the form that subtracts nothing.
    """
    return window.push(inside.reshape(-1)).solve_newest().view_as(inside)


def galore_groups(groups: Iterable[Mapping[str, Any]], rank: int, **settings: Any) -> list[dict[str, Any]]:
    """Groups of parameters split in two each: matrices with a shorter side above `rank`, which get it, and the others.

    Args:
        groups: of an optimizer, each with its ``"params"``; such as `gramian.optim.fit` hands to ``optimizer=``.
        settings: further settings of the groups with a rank (``gap``, ``history``, …).

    >>> weight, bias = torch.nn.Linear(8, 6).parameters()
    >>> [g.get("rank") for g in galore_groups([{"params": [weight, bias]}], rank=2)]
    [2, None]
    """
    found = []
    for group in groups:
        rest = {k: v for k, v in group.items() if k != "params"}
        fits = [p for p in group["params"] if p.ndim == 2 and min(p.shape) > rank]
        chosen = {id(p) for p in fits}
        others = [p for p in group["params"] if id(p) not in chosen]
        found += [{**rest, **settings, "params": fits, "rank": rank}] if fits else []
        found += [{**rest, "params": others}] if others else []
    return found


class NaturalGaLore(torch.optim.Optimizer):
    r"""Adam on \(R = P^\top G\), or on its natural gradient, for groups with a rank; AdamW for all others.

    With \(r = \mathrm{vec}(R)\) and the last s of them, the newest included,

    \[ u = \mathrm{Adam}\Bigl(\bigl(\lambda I + \textstyle\sum_j r_j r_j^\top\bigr)^{-1} r\Bigr), \qquad
       \theta \leftarrow (1 - \eta\omega)\,\theta - \eta\,\kappa\,P u . \]

    When P changes, the history and Adam's first moment are turned with it, \(R_j \to P_{new}^\top P_{old} R_j\). The
    second moment, a number a coordinate, has no such image: it stays, as the singular directions stay in their order.

    Args:
        params: parameters or groups; `galore_groups` makes them.
        lr: η.
        betas, eps: Adam's.
        weight_decay: ω, decoupled.
        rank: of groups that do not say theirs; None is AdamW.
        gap, mode: of `GaLoreProjector`.
        history: s; 0 is plain GaLore. Memory: each entry is one projected gradient.
        damp: λ.
        scale: κ.

    Raises:
        ValueError: a rank below 1 or above a side, a parameter of one axis in a group with a rank, λ not positive,
            a negative history, Adam's settings out of range, or a gradient with NaN or infinity (nothing is changed).
        TypeError: sparse gradients.

    Source: Das, "Natural GaLore" (2024); Zhao et al., "GaLore" (2024), algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | int = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | int = 0.0,
        *,
        rank: int | Sequence[int] | None = None,
        gap: int = 200,
        mode: str = "svd",
        history: int = 20,
        damp: float | int = 1e-3,
        scale: float | int = 0.25,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "rank": rank, "gap": gap,
            "mode": mode, "history": history, "damp": damp, "scale": scale,
        }  # fmt: skip
        self._projectors: dict[Tensor, GaLoreProjector] = {}
        self._windows: dict[Tensor, WindowInverse] = {}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """A further group, checked before it is taken.

        Raises:
            ValueError: as the constructor.
        """
        group = {**self.defaults, **param_group}
        if group["lr"] < 0 or group["eps"] < 0 or group["weight_decay"] < 0:
            raise ValueError(
                f"lr={group['lr']}, eps={group['eps']} and weight_decay={group['weight_decay']} must not be negative"
            )
        if not all(0 <= b < 1 for b in group["betas"]):
            raise ValueError(f"betas={group['betas']} must lie in [0, 1)")
        if group["rank"] is not None:
            if not 0 < group["damp"] < math.inf or group["history"] < 0:
                raise ValueError(f"damp={group['damp']} must be positive, history={group['history']} not negative")
            projector = GaLoreProjector(group["rank"], group["gap"], group["mode"])
            given = param_group["params"]
            param_group["params"] = [given] if isinstance(given, Tensor) else list(given)
            for parameter in param_group["params"]:
                projector.ranks(parameter.shape)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every group."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter, _ in work:  # all are looked at before any is changed
            if parameter.grad.is_sparse:
                raise TypeError("the gradient is sparse: its subspace is not found by a dense decomposition")
            if not torch.isfinite(parameter.grad.sum()):
                raise ValueError(f"the gradient of a parameter of shape {tuple(parameter.shape)} holds NaN or infinity")
        for parameter, group in work:
            update = self._update(parameter, group)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-group["lr"])
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        gradient = parameter.grad.to(torch.promote_types(parameter.dtype, torch.float32))
        if group["rank"] is None:
            return _adam(state, gradient, group)
        projector = self._projector(parameter, group)
        turn = projector.update(gradient)
        inside = projector.project(gradient)
        if turn is not None and "first" in state:
            state["first"] = _along(turn, state["first"])
        if group["history"]:
            window = self._window(parameter, inside, group)
            if turn is not None:
                window = self._windows[parameter] = _turned(window, turn, inside.shape)
            inside = natural_direction(window, inside)
            state["rows"], state["gram"], state["pushed"] = window.rows, window.gram, window.pushed
        state |= {f"{_BASIS}{axis}": basis for axis, basis in projector.bases.items()}
        state["seen"] = projector.steps
        return group["scale"] * projector.back(_adam(state, inside, group))

    def _projector(self, parameter: Tensor, group: dict[str, Any]) -> GaLoreProjector:
        if parameter not in self._projectors:
            made = GaLoreProjector(group["rank"], group["gap"], group["mode"])
            state = self.state[parameter]  # of a checkpoint, it holds bases
            made.bases = {int(k.removeprefix(_BASIS)): v for k, v in state.items() if k.startswith(_BASIS)}
            made.steps = int(state.get("seen", 0))
            self._projectors[parameter] = made
        return self._projectors[parameter]

    def _window(self, parameter: Tensor, inside: Tensor, group: dict[str, Any]) -> WindowInverse:
        if parameter not in self._windows:
            made = WindowInverse(
                group["history"], inside.numel(), group["damp"], average="sum", dtype=inside.dtype, device=inside.device
            )
            state = self.state[parameter]
            if "rows" in state:
                made.rows, made.gram, made.pushed = state["rows"], state["gram"], int(state["pushed"])
                made.held = min(made.pushed, group["history"])
            self._windows[parameter] = made
        return self._windows[parameter]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, each tensor in the precision it was kept in; a training goes on as if uninterrupted."""
        super().load_state_dict(state_dict)
        self._projectors.clear()
        self._windows.clear()
        owners = [p for group in self.param_groups for p in group["params"]]
        numbers = [i for group in state_dict["param_groups"] for i in group["params"]]
        for number, parameter in zip(numbers, owners):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][name] = value.detach().to(parameter.device).clone()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy: what is derived from the state is built again at its next step."""
        self._projectors, self._windows = {}, {}
        super().__setstate__(state)

    def state_elements(self) -> dict[str, int]:
        """How many numbers the state holds now: ``moments``, ``history`` (and its small Gram matrix), ``bases``."""
        found = {"moments": 0, "history": 0, "gram": 0, "bases": 0}
        kinds = {"first": "moments", "second": "moments", "rows": "history", "gram": "gram"}
        for state in self.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    found["bases" if name.startswith(_BASIS) else kinds[name]] += value.numel()
        return found


def _turned(window: WindowInverse, turn: Mapping[int, Tensor], shape: Sequence[int]) -> WindowInverse:
    """The window whose gradients are written in the coordinates of a new basis, each in its place."""
    fresh = WindowInverse(
        len(window.rows), window.rows.shape[1], window.damp, average="sum",
        dtype=window.rows.dtype, device=window.rows.device,
    )  # fmt: skip
    for i in range(window.held):
        fresh.rows[i] = _along(turn, window.rows[i].view(*shape)).reshape(-1)
    held = fresh.rows[: window.held].double()
    fresh.gram[: window.held, : window.held] = held @ held.mT
    fresh.held, fresh.pushed = window.held, window.pushed
    return fresh


def _adam(state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """Adam's direction, both moments corrected for their start at zero."""
    if "first" not in state:
        state["first"], state["second"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["count"] = 0
    state["count"] += 1
    a, b = group["betas"]
    first = state["first"].lerp_(gradient, 1 - a)
    second = state["second"].mul_(b).addcmul_(gradient, gradient, value=1 - b)
    root = (second / (1 - b ** state["count"])).sqrt()
    return first / (1 - a ** state["count"]) / (root + group["eps"])
