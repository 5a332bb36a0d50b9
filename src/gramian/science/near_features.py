"""Features that may move, but not far from given ones: how a last layer pulls them towards collapse."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["CentralPath", "NearFeatures", "NotStationary", "central_path"]


class NotStationary(UserWarning):
    """The minimization, or the linear solve for the perturbation, did not converge."""


class CentralPath(NamedTuple):
    r"""What is seen along the flow, one value a step and the start first.

    Attributes:
        within: trace of the within-class scatter \(\Sigma_W\).
        between: trace of the between-class scatter \(\Sigma_B\).
        nc1: \(\operatorname{tr}(\Sigma_W\Sigma_B^+)/K\).
        features: at the end.
    """

    within: Float[Tensor, "*batch times"]
    between: Float[Tensor, "*batch times"]
    nc1: Float[Tensor, "*batch times"]
    features: Float[Tensor, "*batch dim samples"]


class NearFeatures:
    r"""A linear classifier W and features H near \(H_0\):

    \[ \min_{W, H}\ \frac1{2Kn}\|WH - Y\|_F^2 + \frac{\lambda_W}{2K}\|W\|_F^2 + \frac{\mu}{2Kn}\|H - H_0\|_F^2 . \]

    K classes of n samples each; Y is one-hot. Features are columns; computed in float64.

    Args:
        labels: the class of each column; every class equally often.
        weight_decay: \(\lambda_W > 0\).
        proximity: μ ≥ 0; small values let the features go far (0 is for the flow alone).

    Raises:
        ValueError: classes of different sizes, a decay that is not positive, a negative proximity.

    Source: Tirer, Huang & Niles-Weed (2022), sections 3 and 4.
    """

    def __init__(self, labels: Int[Tensor, " samples"], weight_decay: float, proximity: float = 0.0) -> None:
        counts = labels.bincount()
        if len(counts) < 2 or int(counts.min()) != int(counts.max()):
            raise ValueError(f"the classes have {counts.tolist()} samples: at least two classes, all of one size")
        if not weight_decay > 0 or proximity < 0:
            raise ValueError(f"weight_decay={weight_decay} must be positive and proximity={proximity} not negative")
        self.labels, self.weight_decay, self.proximity = labels, float(weight_decay), float(proximity)
        self.classes, self.size = len(counts), int(counts[0])
        self.targets = torch.nn.functional.one_hot(labels).double().T.contiguous()

    def classifier(self, features: Float[Tensor, "*batch dim samples"]) -> Float[Tensor, "*batch classes dim"]:
        r"""The best W for given features: \(YH^\top(HH^\top + n\lambda_W I)^{-1}\)."""
        h = self._ready(features)
        eye = self.size * self.weight_decay * torch.eye(h.shape[-2], dtype=h.dtype)
        return torch.linalg.solve(h @ h.mT + eye, h @ self.targets.mT).mT

    def reduced(self, features: Float[Tensor, "dim samples"]) -> Float[Tensor, ""]:
        """Loss and weight decay at the best W, without the proximity term."""
        weight = self.classifier(features)
        fit = (weight @ features - self.targets).square().sum() / (2 * len(self.labels))
        return fit + self.weight_decay / (2 * self.classes) * weight.square().sum()

    def flow(self, features: Float[Tensor, "*batch dim samples"]) -> Float[Tensor, "*batch dim samples"]:
        r"""Where the features are drawn: \(-W_*^\top(W_*H - Y)\), which is −Kn times the gradient of `reduced`."""
        weight = self.classifier(features)
        return -weight.mT @ (weight @ features - self.targets)

    def objective(
        self,
        weight: Float[Tensor, "classes dim"],
        features: Float[Tensor, "dim samples"],
        near: Float[Tensor, "dim samples"],
    ) -> Float[Tensor, ""]:
        """What is minimized."""
        total = len(self.labels)
        fit = (weight @ features - self.targets).square().sum() / (2 * total)
        fit = fit + self.weight_decay / (2 * self.classes) * weight.square().sum()
        return fit + self.proximity / (2 * total) * (features - near).square().sum()

    def minimize(
        self, near: Float[Tensor, "dim samples"], *, steps: int = 3000, polish: int = 200, tolerance: float = 1e-6
    ) -> tuple[Float[Tensor, "classes dim"], Float[Tensor, "dim samples"]]:
        r"""The minimum: L-BFGS on W, with the best H for each, from the best W at H₀; then exact solutions in turn.

        For a given W the best features are \((W^\top W + \mu)^{-1}(W^\top Y + \mu H_0)\), and what remains is
        \(\frac1{2Kn}\operatorname{tr}[E^\top(1 + WW^\top/\mu)^{-1}E] + \frac{\lambda_W}{2K}\|W\|^2\) with
        \(E = Y - WH_0\), whose inverse is of K × K.

        Args:
            steps: of L-BFGS, at most.
            polish: pairs of exact solutions at the end, at most; they stop when nothing changes any more.
            tolerance: of the gradient with respect to H, in units of \(\mu\|H_0\|/(Kn)\).

        Raises:
            ValueError: a proximity of zero (then H₀ does not matter: see `UnconstrainedFeatures`), or fewer
                dimensions than classes.

        Warns:
            NotStationary: the gradient is above the tolerance at the end.
        """
        from scipy.optimize import minimize

        if self.proximity == 0:
            raise ValueError("with proximity=0 the minimum does not depend on near; give a positive one")
        h0 = self._ready(near)
        if len(h0) < self.classes:
            raise ValueError(f"{len(h0)} dimensions for {self.classes} classes: their means do not fit")
        shape = (self.classes, len(h0))
        one, eye = torch.eye(self.classes, dtype=h0.dtype), torch.eye(len(h0), dtype=h0.dtype)

        def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weight = torch.tensor(flat, requires_grad=True)
            w = weight.view(shape)
            error = self.targets - w @ h0
            left = torch.linalg.solve(one + w @ w.mT / self.proximity, error)
            found = (error * left).sum() / 2 + self.size * self.weight_decay / 2 * w.square().sum()
            (gradient,) = torch.autograd.grad(found, weight)
            return float(found.detach()), gradient.numpy()

        start = self.classifier(h0).reshape(-1).numpy()
        options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 0.0, "gtol": 1e-8}
        weight = torch.tensor(minimize(value, start, jac=True, method="L-BFGS-B", options=options).x).view(shape)
        h = h0
        for _ in range(max(1, polish)):
            pull = weight.mT @ self.targets + self.proximity * h0
            new = torch.linalg.solve(weight.mT @ weight + self.proximity * eye, pull)
            still = bool((new - h).norm() <= 1e-13 * h.norm())
            h, weight = new, self.classifier(new)
            if still:
                break
        residual = float((self._flow(h) + self.proximity * (h0 - h)).norm() / (self.proximity * h0.norm()))
        if residual > tolerance:
            message = f"the gradient is {residual:.1e} of the pull of the given features, above {tolerance:.0e}"
            warnings.warn(message, NotStationary, stacklevel=2)
        return weight, h

    def perturbation(
        self, minimum: Float[Tensor, "dim samples"], change: Float[Tensor, "dim samples"], tolerance: float = 1e-10
    ) -> Float[Tensor, "dim samples"]:
        r"""How the minimum moves when H₀ does, to first order: \(\delta H = \mu\,(\nabla^2 R + \mu)^{-1}\,\delta H_0\).

        R is Kn times `reduced`; the system is solved by conjugate gradients on products with its Hessian. Near
        collapse, with all class means the columns of one matrix, a within-class change is multiplied by
        μ/(μ + σ²) along the right singular vectors of W, of singular value σ, and by 1 across them.

        Args:
            minimum: H at H₀, from `minimize`.
            change: δH₀.

        Warns:
            NotStationary: the linear solve did not converge.
        """
        from scipy.sparse.linalg import LinearOperator, cg

        h, shape = self._ready(minimum), minimum.shape

        def product(flat: np.ndarray) -> np.ndarray:
            v = torch.from_numpy(np.ascontiguousarray(flat)).view(shape)
            bent = torch.func.jvp(lambda x: -self._flow(x), (h,), (v,))[1]
            return (bent + self.proximity * v).reshape(-1).numpy()

        operator = LinearOperator((h.numel(), h.numel()), matvec=product, dtype=np.float64)
        right = (self.proximity * change.double()).reshape(-1).numpy()
        found, code = cg(operator, right, rtol=tolerance, maxiter=5000)
        if code:
            warnings.warn("conjugate gradients did not converge: is this a minimum?", NotStationary, stacklevel=2)
        return torch.from_numpy(found).view(shape)

    def _flow(self, h: Tensor) -> Tensor:
        eye = self.size * self.weight_decay * torch.eye(h.shape[-2], dtype=h.dtype)
        weight = torch.linalg.solve(h @ h.mT + eye, h @ self.targets.mT).mT
        return -weight.mT @ (weight @ h - self.targets)

    def _ready(self, features: Tensor) -> Tensor:
        if features.shape[-1] != len(self.labels):
            raise ValueError(f"{features.shape[-1]} columns of features for {len(self.labels)} labels")
        return features.double()


def central_path(
    model: NearFeatures, features: Float[Tensor, "*batch dim samples"], dt: float, steps: int
) -> CentralPath:
    """Follow the gradient flow with the classifier always at its best (Euler's steps), one path for each of a batch.

    Raises:
        ValueError: a step that is not positive, or fewer than one.

    Source: Tirer, Huang & Niles-Weed (2022), section 4.1.
    """
    if not dt > 0 or steps < 1:
        raise ValueError(f"dt={dt} must be positive and steps={steps} at least 1")
    h = model._ready(features)
    mean = model.targets.T / model.size  # columns of samples to columns of class means
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in range(steps + 1):
        means = h @ mean
        centred = means - means.mean(-1, keepdim=True)
        off = h - means @ model.targets
        inverse = torch.linalg.pinv(centred, rtol=1e-10)
        total = h.shape[-1]
        nc1 = (inverse @ off).square().sum((-2, -1)) / total
        rows.append((off.square().sum((-2, -1)) / total, centred.square().sum((-2, -1)) / model.classes, nc1))
        if step < steps:
            h = h + dt * model._flow(h)
    within, between, nc1 = (torch.stack(parts, -1) for parts in zip(*rows))
    return CentralPath(within, between, nc1, h)
