"""Delay embedding of series, and rules that choose its order and lag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

__all__ = ["Embedding", "check_series", "delay_embedding", "select_embedding"]

LAG_RULES = ("mutual-information", "autocorrelation")
ORDER_RULES = ("false-neighbours", "cao")


class Embedding(NamedTuple):
    """The order p and the lag τ of a delay embedding."""

    order: int
    lag: int


def check_series(X: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    """Series as a list of float64 arrays (length, channels).

    Raises:
        ValueError: no series, a wrong number of dimensions, differing channels, NaN or infinity.
    """
    if isinstance(X, np.ndarray) and X.dtype != object and X.ndim != 3:
        raise ValueError(
            f"expected series of shape (n, length, channels) or a list of (length, channels); got {X.shape}"
        )
    series = [np.asarray(one, dtype=np.float64) for one in X]
    if not series:
        raise ValueError("no series")
    for index, one in enumerate(series):
        if one.ndim != 2 or one.shape[1] != series[0].shape[-1]:
            raise ValueError(f"series {index} has shape {one.shape}; expected (length, {series[0].shape[-1]})")
        if not np.isfinite(one).all():
            raise ValueError(f"series {index} holds NaN or infinity; remove or impute those rows first")
    return series


def delay_embedding(
    x: Float[np.ndarray, "n length channels"], order: int, lag: int
) -> Float[np.ndarray, "n kept dims"]:
    """[x(t), x(t − τ), …, x(t − (p−1)τ)] for every t that has all of them.

    Returns:
        (n, length − (p−1)τ, p · channels).

    Raises:
        ValueError: order or lag below 1, or fewer than two samples left.
    """
    if order < 1 or lag < 1:
        raise ValueError(f"order={order} and lag={lag} must be at least 1")
    length, reach = x.shape[1], (order - 1) * lag
    if reach >= length - 1:
        raise ValueError(
            f"order={order}, lag={lag} reach back {reach} samples; a series of length {length} allows at most "
            f"{length - 2}"
        )
    return np.concatenate([x[:, reach - k * lag : length - k * lag] for k in range(order)], axis=2)


def select_embedding(
    X: np.ndarray | Sequence[np.ndarray],
    lag_rule: str = "mutual-information",
    order_rule: str = "false-neighbours",
    max_order: int = 10,
    max_lag: int = 10,
) -> Embedding:
    """Order and lag from the dynamics, without labels: each rule is averaged over the channels.

    Args:
        lag_rule: "mutual-information", the first local minimum of the average mutual information between
            x(t) and x(t − τ) (Fraser and Swinney, 1986), or "autocorrelation", its first zero. Where there
            is none up to `max_lag`, the lag of the least value.
        order_rule: "false-neighbours", the first order at which under 1 % of nearest neighbours part in
            the next dimension (Kennel et al., 1992), or "cao", the first at which the mean growth of the
            neighbours' distance stays within 5 % of its limit (Cao, 1997). Where there is none, `max_order`.
        max_order, max_lag: bounds of the search; orders that the shortest series cannot hold are not tried.

    Raises:
        ValueError: an unknown rule, or series too short for order 2 at lag 1.
    """
    if lag_rule not in LAG_RULES or order_rule not in ORDER_RULES:
        raise ValueError(
            f"lag_rule is one of {LAG_RULES} and order_rule one of {ORDER_RULES}; got {lag_rule!r}, {order_rule!r}"
        )
    series = check_series(X)
    shortest = min(map(len, series))
    if shortest < 4:
        raise ValueError(f"series of length {shortest} are too short to choose an embedding from; 4 is the least")
    max_lag = min(max_lag, shortest - 3)
    curve = mutual_information if lag_rule == "mutual-information" else autocorrelation
    lag = _first_low(curve(series, max_lag), zero=lag_rule == "autocorrelation")
    max_order = min(max_order, (shortest - 2) // lag)
    if order_rule == "cao":
        growth = neighbour_growth(series, lag, max_order + 1)
        settled = np.flatnonzero(growth >= 0.95)
    else:
        settled = np.flatnonzero(false_neighbours(series, lag, max_order) <= 0.01)
    return Embedding(int(settled[0]) + 1 if len(settled) else max_order, lag)


def _first_low(curve: np.ndarray, zero: bool) -> int:
    """The lag (index + 1) of the first zero crossing or first local minimum; else of the least value."""
    if zero:
        hits = np.flatnonzero(curve <= 0)
    else:
        hits = 1 + np.flatnonzero((curve[1:-1] < curve[:-2]) & (curve[1:-1] <= curve[2:]))
    return 1 + int(hits[0] if len(hits) else curve.argmin())


def _channel_pairs(series: list[np.ndarray], lag: int) -> tuple[np.ndarray, np.ndarray]:
    """x(t) and x(t − lag) of all series, (pairs, channels) each."""
    return np.concatenate([s[lag:] for s in series]), np.concatenate([s[: len(s) - lag] for s in series])


def autocorrelation(series: list[np.ndarray], max_lag: int) -> Float[np.ndarray, " lags"]:
    """The autocorrelation at lags 1 … max_lag, each series centred, averaged over channels."""
    centred = [s - s.mean(axis=0) for s in series]
    variance = np.mean(np.concatenate(centred) ** 2, axis=0)
    if (variance == 0).any():
        raise ValueError("a channel is constant; drop it before choosing an embedding")
    return np.array(
        [np.mean((a * b).mean(axis=0) / variance) for a, b in (_channel_pairs(centred, k + 1) for k in range(max_lag))]
    )


def mutual_information(series: list[np.ndarray], max_lag: int) -> Float[np.ndarray, " lags"]:
    """The mutual information, in nats, of x(t) and x(t − k), k = 1 … max_lag, averaged over channels.

    Each channel is cut into equally filled bins, about (N/5)^½ and at most 32 of them (N samples).
    """
    total = sum(map(len, series))
    bins = int(np.clip(np.sqrt(total / 5), 2, 32))
    flat = np.concatenate(series)
    edges = np.quantile(flat, np.linspace(0, 1, bins + 1)[1:-1], axis=0)
    codes = [
        np.stack([np.searchsorted(edges[:, c], s[:, c], side="right") for c in range(s.shape[1])], axis=1)
        for s in series
    ]
    curve = np.zeros(max_lag)
    for k in range(max_lag):
        now, before = _channel_pairs(codes, k + 1)
        joint = np.stack([np.bincount(now[:, c] * bins + before[:, c], minlength=bins**2) for c in range(now.shape[1])])
        joint = joint.reshape(-1, bins, bins) / len(now)
        independent = joint.sum(1, keepdims=True) * joint.sum(2, keepdims=True)
        filled = joint > 0
        curve[k] = np.sum(joint[filled] * np.log(joint[filled] / independent[filled])) / len(joint)
    return curve


def _scalar_embeddings(series: list[np.ndarray], lag: int, order: int, most: int = 3000):
    """For each channel: points of `order` delays, and the value one delay later, thinned to `most`."""
    for channel in range(series[0].shape[1]):
        stacked = [
            delay_embedding(s[None, :, channel : channel + 1], order + 1, lag)[0]
            for s in series
            if len(s) - order * lag >= 2
        ]
        points = np.concatenate(stacked)
        points = points[:: max(1, len(points) // most)]
        yield points[:, 1:], points[:, 0]


def false_neighbours(
    series: list[np.ndarray], lag: int, max_order: int, ratio: float = 15.0, spread: float = 2.0
) -> Float[np.ndarray, " orders"]:
    """The fraction of nearest neighbours in p delays that the next delay shows to be false, p = 1 … max_order.

    A neighbour is false where the next coordinate differs by more than `ratio` times the distance, or
    where the new distance exceeds `spread` standard deviations.
    """
    fractions = np.zeros(max_order)
    for p in range(1, max_order + 1):
        shares = []
        for points, following in _scalar_embeddings(series, lag, p):
            distance, index = cKDTree(points).query(points, k=2)
            distance, jump = distance[:, 1], np.abs(following - following[index[:, 1]])
            false = (jump > ratio * distance) | (np.hypot(jump, distance) > spread * following.std())
            shares.append(false.mean())
        fractions[p - 1] = np.mean(shares)
    return fractions


def neighbour_growth(series: list[np.ndarray], lag: int, max_order: int) -> Float[np.ndarray, " orders"]:
    """Cao's E1(p) = E(p + 1)/E(p), p = 1 … max_order − 1; E(p) is the mean growth of the neighbours' distance."""
    growth = np.zeros(max_order)
    for p in range(1, max_order + 1):
        means = []
        for points, following in _scalar_embeddings(series, lag, p) if p * lag <= min(map(len, series)) - 2 else ():
            distance, index = cKDTree(points).query(points, k=2, p=np.inf)
            distance, jump = distance[:, 1], np.abs(following - following[index[:, 1]])
            apart = distance > 0
            means.append(np.mean(np.maximum(distance, jump)[apart] / distance[apart]))
        growth[p - 1] = np.mean(means) if means else growth[max(p - 2, 0)]
    return growth[1:] / growth[:-1]
