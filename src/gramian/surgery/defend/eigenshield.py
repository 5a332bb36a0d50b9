r"""EigenShield: keep the directions of an embedding that matter and that an attack does not move."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gramian.analysis.taps import Taps
from gramian.linalg.spectral import covariance

__all__ = ["EigenShield", "Spectrum", "outliers", "robustness_score", "shielded"]

ONCE_IN_A_THOUSAND = 3.27  # the 99.9% point of the Tracy-Widom distribution for real matrices


class Spectrum(NamedTuple):
    """The eigenvalues of embeddings that noise does not explain.

    Attributes:
        mean: of the embeddings.
        values: all eigenvalues of their covariance, descending.
        vectors: the eigenvectors of the first `outliers` of them, (features, outliers).
        noise: the variance of the noise, from the median eigenvalue.
        edge: of Marchenko and Pastur: eigenvalues above it are outliers.
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor
    noise: float
    edge: float


def outliers(embeddings: Float[Tensor, "samples features"]) -> Spectrum:
    r"""The directions in which embeddings vary more than noise of their size would.

    An eigenvalue counts if it is 3.27 scales above the edge, which the largest eigenvalue of noise is once in a
    thousand samples (Tracy and Widom); the scale is \(\sigma^2 (1 + \sqrt\gamma)^{4/3} \gamma^{-1/6} n^{-2/3}\).

    Raises:
        ValueError: fewer than 10 samples, or embeddings that are not finite.

    Source: Johnstone, "On the distribution of the largest eigenvalue in principal components analysis" (2001).
    """
    samples, features = embeddings.shape
    if samples < 10:
        raise ValueError(f"{samples} samples: at least 10 are needed for a spectrum")
    if not bool(torch.isfinite(embeddings).all()):
        raise ValueError("the embeddings hold NaN or infinite numbers")
    x = embeddings.double()
    mean = x.mean(0)
    if features <= samples:
        found, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / (samples - 1))
        values, vectors = found.flip(0).clamp(min=0), axes.flip(1)
    else:
        vectors, singular, _ = torch.linalg.svd((x - mean).T, full_matrices=False)
        values = torch.cat((singular.square() / (samples - 1), x.new_zeros(features - samples)))
    ratio = features / samples
    noise = covariance.fit_noise(values, ratio)
    edge = covariance.marchenko_pastur_edges(ratio, noise)[1]
    scale = noise * (1 + ratio**0.5) ** (4 / 3) * ratio ** (-1 / 6) * samples ** (-2 / 3)
    count = int((values[: vectors.shape[1]] > edge + ONCE_IN_A_THOUSAND * scale).sum())
    return Spectrum(mean, values, vectors[:, :count], noise, edge)


def robustness_score(
    vectors: Float[Tensor, "features directions"],
    clean: Float[Tensor, "samples features"],
    adversarial: Float[Tensor, "others features"],
) -> Float[Tensor, " directions"]:
    r"""How far an attack moves embeddings along directions, over how far they lie apart: low is robust.

    \[ s_i = \frac{\mathbb E\,|\langle v_i, e_{adv} - e_{clean}\rangle|}
                  {\mathbb E\,|\langle v_i, e_{clean} - \bar e\rangle|}. \]

    Raises:
        ValueError: pairs of different shapes.

    Source: our definition; the formula of the paper's "robustness-based nonconformity score" was not found in public.
    """
    if clean.shape != adversarial.shape:
        raise ValueError(f"clean {tuple(clean.shape)} and adversarial {tuple(adversarial.shape)} do not pair up")
    v = vectors.double()
    moved = ((adversarial - clean).double() @ v).abs().mean(0)
    apart = ((clean - clean.mean(0)).double() @ v).abs().mean(0)
    return moved / apart.clamp(min=torch.finfo(torch.float64).tiny)


class EigenShield:
    r"""Project embeddings onto the outlier directions that an attack moves least.

    Args:
        quantile: of the scores of the outlier directions; those up to it are kept.
        score: (vectors, clean, adversarial) → a number per direction, low for robust.

    Attributes:
        spectrum: what `outliers` found in the calibration sample: one of each pair, clean and adversarial in turn, so
            that directions which only an attack fills are among them.
        scores: of the outlier directions.
        kept: which of them span the subspace.
        basis: that subspace, (features, kept).

    Raises:
        ValueError: a quantile outside (0, 1]; in `fit`, pairs of other shapes or a spectrum without outlier; in
            `transform`, another width, or no fit.

    Source: Darabi et al., "EigenShield" (2025): outliers of the spiked model, a score, a quantile; the score is ours.
    """

    def __init__(
        self, quantile: float | int = 0.8, score: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    ) -> None:
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile={quantile} must lie in (0, 1]")
        self.quantile = float(quantile)
        self.score = robustness_score if score is None else score
        self.spectrum: Spectrum | None = None

    def fit(
        self, clean: Float[Tensor, "samples features"], adversarial: Float[Tensor, "others features"]
    ) -> EigenShield:
        """Calibrate on embeddings of the same samples before and after an attack."""
        if clean.shape != adversarial.shape:
            raise ValueError(f"clean {tuple(clean.shape)} and adversarial {tuple(adversarial.shape)} do not pair up")
        turn = torch.arange(len(clean), device=clean.device)[:, None] % 2 == 0
        spectrum = outliers(torch.where(turn, clean, adversarial))
        if spectrum.vectors.shape[1] == 0:
            raise ValueError(f"no eigenvalue is above the edge of noise, {spectrum.edge:.3g}: there is nothing to keep")
        self.spectrum = spectrum
        self.mean = clean.double().mean(0)
        self.scores: Tensor = self.score(spectrum.vectors, clean, adversarial)
        # the k-th smallest, as in split conformal prediction without the extra 1: at least one direction stays
        rank = max(1, round(self.quantile * len(self.scores)))
        self.kept: Bool[Tensor, " outliers"] = self.scores <= self.scores.sort().values[rank - 1]
        self.basis: Float[Tensor, "features kept"] = spectrum.vectors[:, self.kept]
        return self

    def transform(self, embeddings: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Embeddings without what lies outside the kept directions, about the mean of the clean ones."""
        if self.spectrum is None:
            raise ValueError("fit first")
        if embeddings.shape[-1] != len(self.basis):
            raise ValueError(f"embeddings of {embeddings.shape[-1]} numbers do not fit the fit's {len(self.basis)}")
        basis, mean = self.basis.to(embeddings), self.mean.to(embeddings)
        return mean + (embeddings - mean) @ basis @ basis.mT


def shielded(model: nn.Module, name: str, shield: EigenShield) -> Taps:
    """A context in which the output of a module of the model goes through the shield.

    >>> model = nn.Sequential(nn.Linear(3, 20), nn.Linear(20, 1))
    >>> clean = torch.randn(100, 20) + 5 * torch.randn(100, 1)
    >>> shield = EigenShield(1.0).fit(clean, clean)
    >>> with shielded(model, "0", shield):
    ...     y = model(torch.randn(4, 3))
    """
    return Taps(model, {name: shield.transform}, mode="write")
