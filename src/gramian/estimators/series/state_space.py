"""State space layers as a scikit-learn classifier of multivariate series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from gramian.models.sequence import SequenceClassifier
from gramian.models.sequence.classifier import LAYERS
from gramian.optim import fit
from gramian.optim.checkpoint import load_checkpoint, save_checkpoint


class StateSpaceClassifier(ClassifierMixin, BaseEstimator):
    """Classify series with a stack of S4D or S5 layers.

    Channels are standardized with the training series' mean and deviation. A share of the training
    series is held out, stratified where that is possible, and the weights of its best epoch are kept.

    Args:
        layer: ``s4d``, ``s5-ptd`` or ``s5-legs``.
        channels, depth, state_size: size of the stack.
        epochs, batch_size, lr, weight_decay, dropout: of the training; the learning rate rises over the first
            epoch and falls to zero along a cosine.
        dt_range: range of the layers' steps; by default (0.64/length, 32/length), so that memories reach
            from a fraction of the series to many times its length.
        layer_options: further arguments of every layer, such as ``{"init": "inv"}``.
        validation_fraction: share held out; 0 trains on everything and keeps the last weights.
        device: torch device; by default the CPU.
        random_state: integer seed of the start, the split, the shuffling and dropout.

    Attributes:
        classes_: the labels, sorted.
        network_: the trained `SequenceClassifier`.
        history_: the fit's `History`.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(["a", "b"], 10)
    >>> series = rng.normal(size=(20, 12, 2)) + 2 * (labels == "b")[:, None, None]
    >>> model = StateSpaceClassifier(channels=8, depth=1, state_size=4, epochs=10).fit(series, labels)
    >>> model.predict(series[:1]).tolist()
    ['a']
    """

    def __init__(
        self,
        layer: str = "s4d",
        *,
        channels: int = 32,
        depth: int = 2,
        state_size: int = 16,
        epochs: int = 60,
        batch_size: int = 32,
        lr: float = 1e-2,
        weight_decay: float = 0.01,
        dropout: float = 0.1,
        dt_range: tuple[float, float] | None = None,
        layer_options: dict[str, Any] | None = None,
        validation_fraction: float = 0.15,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.layer = layer
        self.channels = channels
        self.depth = depth
        self.state_size = state_size
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.dt_range = dt_range
        self.layer_options = layer_options
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, show_progress: bool | None = None) -> StateSpaceClassifier:
        """Train on X (n, length, channels) with labels y.

        Raises:
            ValueError: ragged or non-finite series, fewer than two classes, or lengths of X and y that differ.
        """
        if self.layer not in LAYERS:
            raise ValueError(f"layer={self.layer!r} is unknown; choose one of {', '.join(LAYERS)}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction} must lie in [0, 1)")
        X, y = _series(X), np.asarray(y)
        if y.ndim != 1 or len(y) != len(X):
            raise ValueError(f"y must hold one label a series: {len(X)} series, y of shape {y.shape}")
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only ({self.classes_[0]!r}); at least two are needed")
        self.n_features_in_, self.length_ = int(X.shape[2]), int(X.shape[1])
        self.mean_ = X.mean((0, 1))
        self.scale_ = np.where(X.std((0, 1)) > 0, X.std((0, 1)), 1.0)

        train, held_out = self._split(codes)
        generator = torch.Generator().manual_seed(int(self.random_state))
        self.network_ = self._network(generator)
        x, labels = self._tensor(X), torch.as_tensor(codes)
        steps = -(-len(train) // self.batch_size)
        # dropout draws from torch's own state: fork it, so that a fit neither depends on it nor changes it
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.random_state))
            self.history_ = fit(
                self.network_,
                (x[train], labels[train]),
                classification_loss,
                epochs=self.epochs,
                batch_size=self.batch_size,
                lr=self.lr,
                weight_decay=self.weight_decay,
                schedule="cosine",
                warmup=steps,
                clip=1.0,
                validation=(x[held_out], labels[held_out]) if len(held_out) else None,
                generator=generator,
                device=self.device,
                what=f"training {self.layer}",
                show_progress=show_progress,
            )
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "samples classes"]:
        """Class probabilities, in the order of `classes_`."""
        check_is_fitted(self, "network_")
        X = _series(X)
        if X.shape[2] != self.n_features_in_:
            raise ValueError(f"X has {X.shape[2]} channels; the classifier was fitted on {self.n_features_in_}")
        self.network_.eval()
        with torch.inference_mode():
            parts = [
                F.softmax(self.network_(part.to(self.device)).double(), -1).cpu() for part in self._tensor(X).split(256)
            ]
        return torch.cat(parts).numpy()

    def predict(self, X: Any) -> Shaped[np.ndarray, " samples"]:
        """The most probable class of each series."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def save(self, path: str | Path) -> None:
        """Write the classifier: weights as safetensors, its parameters and labels as JSON in the header."""
        check_is_fitted(self, "network_")
        header = {
            "kind": "StateSpaceClassifier",
            "parameters": self.get_params(),
            "classes": self.classes_.tolist(),
            "dtype": self.classes_.dtype.str,
            "shape": [self.length_, self.n_features_in_],
        }
        scaling = {"scaling/mean": torch.as_tensor(self.mean_), "scaling/scale": torch.as_tensor(self.scale_)}
        weights = {f"network/{k}": v for k, v in self.network_.state_dict().items()}
        save_checkpoint(path, weights | scaling, header)

    @classmethod
    def load(cls, path: str | Path) -> StateSpaceClassifier:
        """Read what `save` wrote; predictions are identical.

        Raises:
            ValueError: a truncated file, or one of something else.
        """
        tensors, header = load_checkpoint(path)
        if header.get("kind") != "StateSpaceClassifier":
            raise ValueError(
                f"{path} does not hold a StateSpaceClassifier but {header.get('kind', 'something else')!r}"
            )
        parameters = header["parameters"]
        if parameters["dt_range"] is not None:
            parameters["dt_range"] = tuple(parameters["dt_range"])
        model = cls(**parameters)
        model.classes_ = np.array(header["classes"], dtype=header["dtype"])
        model.length_, model.n_features_in_ = header["shape"]
        model.mean_, model.scale_ = tensors["scaling/mean"].numpy(), tensors["scaling/scale"].numpy()
        model.network_ = model._network(torch.Generator().manual_seed(0)).to(model.device).eval()
        model.network_.load_state_dict(
            {k.removeprefix("network/"): v for k, v in tensors.items() if k.startswith("network/")}
        )
        return model

    def _network(self, generator: torch.Generator) -> SequenceClassifier:
        dt_range = self.dt_range or (0.64 / self.length_, 32 / self.length_)
        return SequenceClassifier(
            self.n_features_in_,
            len(self.classes_),
            channels=self.channels,
            depth=self.depth,
            layer=self.layer,
            layer_options={"state_size": self.state_size, "dt_range": dt_range, **(self.layer_options or {})},
            dropout=self.dropout,
            generator=generator,
        )

    def _tensor(self, X: np.ndarray) -> torch.Tensor:
        return torch.as_tensor((X - self.mean_) / self.scale_, dtype=torch.float32)

    def _split(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        everything = np.arange(len(codes))
        held = round(self.validation_fraction * len(codes))
        counts = np.bincount(codes)
        if held == 0 or len(codes) - held < len(counts):
            return everything, everything[:0]
        stratify = codes if counts.min() >= 2 and held >= len(counts) else None
        train, held_out = train_test_split(
            everything, test_size=held, random_state=self.random_state, stratify=stratify
        )
        return train, held_out


def classification_loss(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
    """Cross-entropy of the module's logits, and its accuracy."""
    logits = module(x)
    return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(-1) == y).float().mean()}


def _series(X: Any) -> np.ndarray:
    """X as a finite array (n, length, channels).

    Raises:
        ValueError: what X is instead, and how to mend it.
    """
    if isinstance(X, (list, tuple)):
        lengths = sorted({np.shape(series)[0] for series in X if np.ndim(series) == 2})
        if len(lengths) > 1:
            raise ValueError(
                f"the series have unequal lengths ({lengths[0]} to {lengths[-1]}); this classifier takes series of "
                "one length: resample, cut or pad them to it first, or use an estimator that takes ragged series"
            )
    try:
        X = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"X must be numeric, of shape (n, length, channels): {error}") from error
    if X.ndim != 3 or 0 in X.shape:
        raise ValueError(f"X must have shape (n, length, channels), not {X.shape}; one channel is X[..., None]")
    if not np.isfinite(X).all():
        raise ValueError("X holds NaN or infinite values; fill or drop them first")
    return X
