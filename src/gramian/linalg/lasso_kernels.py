"""The compiled coordinate descent of L1-penalized regression on second moments; no sample is read."""

import typing

import numpy as np

from gramian.linalg.kernels import numba, warmup


@numba.njit(nogil=True, cache=True)
@typing.no_type_check
def lasso_path(task, gram, cross, alphas, tolerance, sweeps, weights, gaps):
    """Target `task`: for each α, from the one before, minimize ½ wᵀGw − cᵀw + α|w|₁ over w.

    gram: (features, features); cross, one row a target: (targets, features); weights: (alphas, targets, features);
    gaps: (alphas, targets), the largest violation of the optimality conditions that is left.
    """
    features = gram.shape[0]
    w = np.zeros(features)
    slope = cross[task].copy()  # c − Gw
    scale = np.max(np.abs(slope))
    for a in range(alphas.shape[0]):
        alpha = alphas[a]
        gap = np.inf
        for _ in range(sweeps):
            for j in range(features):
                curvature = gram[j, j]
                pull = slope[j] + curvature * w[j]
                fresh = np.sign(pull) * max(abs(pull) - alpha, 0.0) / curvature
                step = fresh - w[j]
                if step != 0.0:
                    w[j] = fresh
                    for i in range(features):
                        slope[i] -= gram[j, i] * step
            gap = 0.0
            for j in range(features):
                off = abs(slope[j] - alpha * np.sign(w[j])) if w[j] != 0.0 else max(abs(slope[j]) - alpha, 0.0)
                gap = max(gap, off)
            if gap <= tolerance * scale:
                break
        weights[a, task] = w
        gaps[a, task] = gap


@warmup
def _compile() -> None:
    one = np.ones((1, 1))
    lasso_path(0, one, one, np.ones(1), 1e-6, 1, np.empty((1, 1, 1)), np.empty((1, 1)))
