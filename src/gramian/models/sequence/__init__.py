"""Networks that read sequences."""

from gramian.models.sequence.classifier import SequenceClassifier

__all__ = ["SequenceClassifier"]
