"""Networks that read images."""

from gramian.models.vision.efficientnet_lite import EfficientNetLite, efficientnet_lite0, preprocess, standardize

__all__ = ["EfficientNetLite", "efficientnet_lite0", "preprocess", "standardize"]
