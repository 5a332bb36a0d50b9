r"""Class activation maps: where in a picture the features of a convolutional layer are.

`eigen_cam` looks at the features alone: neither class nor gradient. `GradCAM` is the usual baseline, which asks the
gradient of one class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.analysis.taps import Taps

__all__ = ["EigenCAM", "GradCAM", "box_from_map", "eigen_cam", "grad_cam"]


def eigen_cam(
    activations: Float[Tensor, "batch channels height width"],
    *,
    center: bool = False,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch out_height out_width"]:
    r"""Each place's activations projected on their first right singular vector.

    With \(A \in \mathbb{R}^{hw \times c}\) one place a row, \(A = U S V^T\), the map is \(A v_1\), cut at zero and
    divided by its largest value. A singular vector has no sign of its own: the one is taken under which the map is
    positive where activations are long, \(\sum_p \|a_p\| (A v_1)_p \ge 0\); for activations that are nowhere negative,
    this is the sign of a map that is nowhere negative.

    Args:
        activations: of one layer, (batch, channels, height, width).
        center: subtract each channel's mean over the places first, as pytorch-grad-cam does; the paper does not.
        size: (height, width) of the result, by bilinear interpolation; by default that of the activations.

    Returns:
        Maps in [0, 1], each with largest value 1 before interpolation.

    Raises:
        ValueError: activations that are not four-dimensional, not finite, or zero all over (after centring).

    Source: Muhammad and Yeasin, Eigen-CAM (2020), section III.

    >>> place, channel = torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.tensor([1.0, -3.0, 2.0])
    >>> eigen_cam((channel[:, None] * place).view(1, 3, 2, 2))
    tensor([[[0.0000, 0.2500],
             [0.5000, 1.0000]]])
    """
    _check(activations)
    batch, _, height, width = activations.shape
    # a Gram matrix squares the condition number: in float64 a float32 input loses nothing by it
    rows = activations.detach().double().flatten(2).mT
    lengths = torch.linalg.vector_norm(rows, dim=-1)
    if center:
        rows = rows - rows.mean(dim=1, keepdim=True)
    energy = rows.square().sum(dim=(1, 2))
    if bool((energy <= (1e-12 * lengths.square().sum(1)).clamp(min=torch.finfo(torch.float64).tiny)).any()):
        what = "equal at all places, so that nothing is left after centring" if center else "zero at all places"
        raise ValueError(f"the activations of a picture are {what}: there is no map; tap another layer")
    places, channels = rows.shape[1:]
    if channels <= places:
        maps = (rows @ torch.linalg.eigh(rows.mT @ rows).eigenvectors[..., -1:]).squeeze(-1)
    else:  # A v₁ = s₁ u₁
        maps = torch.linalg.eigh(rows @ rows.mT).eigenvectors[..., -1]
    maps = torch.where((maps * lengths).sum(1, keepdim=True) < 0, -maps, maps).clamp(min=0)
    maps = maps / maps.amax(dim=1, keepdim=True)
    return _resize(maps.view(batch, height, width).to(activations.dtype), size)


def grad_cam(
    activations: Float[Tensor, "batch channels height width"],
    gradients: Float[Tensor, "batch channels height width"],
    *,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch out_height out_width"]:
    r"""Activations weighted by their mean gradient: \(\max(0, \sum_c \bar g_c A_c)\), divided by its largest value.

    A picture whose weighted activations are nowhere positive has a map of zeros: nothing spoke for the class.

    Raises:
        ValueError: not four-dimensional, not finite, or of different shapes.

    Source: Selvaraju et al., Grad-CAM (2017), equations 1 and 2.
    """
    _check(activations)
    if activations.shape != gradients.shape:
        raise ValueError(
            f"activations have shape {tuple(activations.shape)}, their gradients {tuple(gradients.shape)}: "
            "both are of one layer"
        )
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    maps = (weights * activations).sum(1).clamp(min=0)
    top = maps.amax(dim=(1, 2), keepdim=True)
    return _resize(torch.where(top > 0, maps / top, maps), size)


class EigenCAM:
    """Eigen-CAM of one layer of a network, resized to the picture.

    Args:
        model: any network of pictures; left as it is.
        layer: the dotted name of a module that returns (batch, channels, height, width).
        center: as in `eigen_cam`.

    Raises:
        ValueError: no module of that name.
    """

    def __init__(self, model: nn.Module, layer: str, *, center: bool = False) -> None:
        self.model, self.layer, self.center = model, layer, center
        _named(model, layer)

    def __call__(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch height width"]:
        """Maps of a batch of prepared pictures."""
        with torch.no_grad():
            found = _features(self.model, self.layer, lambda: self.model(x))[0]
        return eigen_cam(found, center=self.center, size=(x.shape[2], x.shape[3]))


class GradCAM:
    """Grad-CAM of one layer of a classifier, for the class given or the one that it answers.

    Args:
        model: a network from pictures to class scores; left as it is.
        layer: the dotted name of a module that returns (batch, channels, height, width).

    Raises:
        ValueError: no module of that name.
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        self.model, self.layer = model, layer
        _named(model, layer)

    def __call__(
        self,
        x: Float[Tensor, "batch channels height width"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch height width"]:
        """Maps of a batch of prepared pictures."""
        with torch.enable_grad():
            # a leaf that asks for its gradient: parameters may be frozen
            found, scores = _features(self.model, self.layer, lambda: self.model(x.detach().requires_grad_()))
            labels = scores.argmax(1) if labels is None else labels
            (gradients,) = torch.autograd.grad(scores.gather(1, labels[:, None]).sum(), found)
        return grad_cam(found.detach(), gradients, size=(x.shape[2], x.shape[3]))


def box_from_map(heat: Float[Tensor, "height width"], threshold: float = 0.5) -> tuple[int, int, int, int]:
    """The box around the largest connected region of a map that is at least `threshold` times its largest value.

    Returns:
        (top, left, bottom, right) in places of the map, bottom and right exclusive.

    Raises:
        ValueError: a threshold outside (0, 1], or a map without a positive value.

    >>> heat = torch.zeros(5, 6)
    >>> heat[1:3, 2:5] = 1.0
    >>> box_from_map(heat)
    (1, 2, 3, 5)
    """
    from scipy import ndimage

    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie in (0, 1]: it is a share of the map's largest value")
    top = float(heat.max())
    if not top > 0 or not bool(torch.isfinite(heat).all()):
        raise ValueError("the map has no positive value, or one that is not finite: there is nothing to frame")
    regions, count = ndimage.label((heat >= threshold * top).cpu().numpy())
    sizes = ndimage.sum_labels(regions > 0, regions, index=range(1, count + 1))
    rows, columns = ndimage.find_objects(regions)[int(sizes.argmax())]
    return rows.start, columns.start, rows.stop, columns.stop


def _named(model: nn.Module, layer: str) -> None:
    if layer not in dict(model.named_modules()):
        some = [n for n, _ in model.named_modules() if n]
        raise ValueError(f"the model has no layer {layer!r}; its layers are named like {', '.join(some[-6:])}")


def _features(model: nn.Module, layer: str, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What a layer returned during one call of the model, in the graph, and what the model returned."""
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with Taps(model, {layer: keep}, mode="write"):
        out = run()
    if len(kept) != 1:
        raise ValueError(f"{layer!r} ran {len(kept)} times in one pass: tap a layer that runs once")
    _check(kept[0])
    return kept[0], out


def _check(activations: Tensor) -> None:
    if activations.ndim != 4:
        raise ValueError(
            f"activations of shape {tuple(activations.shape)}: (batch, channels, height, width) is needed; "
            "tap a layer before the pooling"
        )
    if not bool(torch.isfinite(activations).all()):
        raise ValueError("the activations hold NaN or infinity: look at what goes into the model")


def _resize(maps: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
