r"""Fire together, wire together: prune a trained network's channels anew for every image.

Convolutions are replaced by `MaskedConvBNReLU`, whose masks small predictors learn from the layers' own activations:
the pruning loss is a binary classification of its own, without a weight to balance, and its targets tell the
operations that will be left before any training.

Source: Elkerdawy et al., Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask
Prediction (2021), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian import optim
from gramian.nn.sparse.firing import MODES, MaskedConvBNReLU, MaskPredictor
from gramian.surgery.swap import Handle, find, swap

__all__ = ["FTWT"]


class FTWT:
    """Dynamic pruning of a network: swaps its convolutions, trains the predictors, counts what is saved.

    Every matching convolution has to stand in an `nn.Sequential`, followed by batch normalization (or none) and a ReLU
    or ReLU6. The network is changed in place; ``undo()`` puts the convolutions back.

    Args:
        model: the trained network.
        pattern: names of the convolutions, as for `swap.find`.
        mass, keep: the target; see `firing_mask`.
        pool, rate: of the predictors; see `MaskPredictor`.
        decoupled, straight_through: see `MaskedConvBNReLU`.

    Attributes:
        layers: the masked layers by name.

    Raises:
        ValueError: a share outside (0, 1], a grouped convolution, or another order of layers.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> pruned = FTWT(net, "0", mass=0.9)
    >>> list(pruned.layers), net(torch.ones(2, 1, 8, 8)).shape
    (['0'], torch.Size([2, 2]))
    """

    def __init__(
        self, model: nn.Module, pattern: str | Iterable[str] = "*", *, mass: float | int | None = None,
        keep: float | int | None = None, pool: str = "max", rate: float | int = 1.0, decoupled: bool = True,
        straight_through: bool = False,
    ) -> None:  # fmt: skip
        self.model = model
        made: dict[str, nn.Module] = {}
        for name, conv in find(model, pattern, nn.Conv2d).items():
            norm_name, norm, activation_name, activation = _followers(model, name)
            predictor = MaskPredictor(conv.in_channels, conv.out_channels, pool, rate).to(conv.weight)  # type: ignore[arg-type]
            made[name] = MaskedConvBNReLU(
                conv, norm, activation, predictor, mass=mass, keep=keep, decoupled=decoupled,
                straight_through=straight_through,
            )  # type: ignore[arg-type]  # fmt: skip
            made |= {n: nn.Identity() for n in (norm_name, activation_name) if n is not None}
        self.handle: Handle = swap(model, list(made), lambda name, layer: made[name])
        self.layers = {n: m for n, m in made.items() if isinstance(m, MaskedConvBNReLU)}

    def undo(self) -> None:
        """Put the original layers back, with the weights they had; other layers stay as `fit` left them."""
        self.handle.undo()

    def use(self, mode: str) -> None:
        """Mask by ``"predicted"`` masks, by the ``"target"`` itself, or not at all (``"dense"``)."""
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is not one of {', '.join(MODES)}")
        for layer in self.layers.values():
            layer.mode = mode

    def mask_loss(self) -> Tensor:
        """The predictors' losses of the last pass in training mode, summed over the layers."""
        losses = [layer.mask_loss for layer in self.layers.values() if layer.mask_loss is not None]
        if not losses:
            raise ValueError("no layer has a mask loss: run the network in training mode, with predicted masks, first")
        for layer in self.layers.values():
            layer.mask_loss = None
        return torch.stack(losses).sum()

    def fit(self, data: Any, loss: Callable[..., Tensor], **settings: Any) -> optim.History:
        """Train network and predictors together: the task's loss plus the mask losses; settings as `optim.fit`."""
        self.use("predicted")
        return optim.fit(self.model, data, lambda module, *batch: loss(module, *batch) + self.mask_loss(), **settings)

    def fit_predictors(self, data: Any, **settings: Any) -> optim.History:
        """Train the predictors alone, against a network that stays as it is; batches start with the images."""
        own = {id(p) for layer in self.layers.values() for p in layer.predictor.parameters()}
        flags = [(p, p.requires_grad) for p in self.model.parameters()]
        still = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.use("predicted")

        def loss(module: Any, x: Tensor, *rest: Tensor) -> Tensor:
            for norm in still:  # the running statistics are the network's, too
                norm.eval()
            module(x)
            return self.mask_loss()

        try:
            for parameter, flag in flags:
                parameter.requires_grad_(flag and id(parameter) in own)
            return optim.fit(self.model, data, loss, **settings)
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def measure(
        self, images: Float[Tensor, "batch channels height width"], mode: str = "predicted", batch_size: int = 256
    ) -> dict[str, Any]:
        """Run images in evaluation mode and count.

        Returns:
            ``logits``; ``share``: multiply–accumulates of the masked convolutions over the dense ones';
            ``layers``: for each layer its share, the mean of its channels on, and the agreement with the target.
        """
        if not len(images):
            raise ValueError("no image to measure on")
        training = [(m, m.training) for m in self.model.modules()]
        before = [layer.mode for layer in self.layers.values()]
        self.model.eval()
        self.use(mode)
        logits, found = [], {name: [] for name in self.layers}
        # a last batch of one image would go the gathered way, which knows no target
        parts = -(-len(images) // batch_size)
        try:
            with torch.no_grad():
                for part in images.tensor_split(parts):
                    logits.append(self.model(part))
                    for name, layer in self.layers.items():
                        found[name].append(layer.fired)
        finally:
            for module, flag in training:
                module.training = flag
            for layer, own in zip(self.layers.values(), before, strict=True):
                layer.mode = own
        rows, spent, dense = {}, 0.0, 0.0
        for name, layer in self.layers.items():
            macs, on, agree = (torch.cat([getattr(f, k) for f in found[name]]).double().mean().item()
                               for k in ("macs", "outputs", "agreement"))  # fmt: skip
            rows[name] = {"share": macs / layer.dense_macs, "channels": on, "agreement": agree}
            spent, dense = spent + macs, dense + layer.dense_macs
        return {"logits": torch.cat(logits), "share": spent / dense, "layers": rows}

    def forecast(self, images: Float[Tensor, "batch channels height width"], batch_size: int = 256) -> float:
        """The share of the multiply–accumulates that will be left, from the targets alone: before any training."""
        return float(self.measure(images, "target", batch_size)["share"])


def _followers(model: nn.Module, name: str) -> tuple[str | None, nn.Module, str, nn.Module]:
    parent_name, _, last = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    after: list[tuple[str, nn.Module]] = []
    if isinstance(parent, nn.Sequential):
        names = list(parent._modules)
        after = [(n, parent._modules[n]) for n in names[names.index(last) + 1 :]]  # type: ignore[misc]
    prefix = f"{parent_name}." if parent_name else ""
    norm_name, norm = None, nn.Identity()
    if after and isinstance(after[0][1], nn.BatchNorm2d):
        (norm_name, norm), after = (prefix + after[0][0], after[0][1]), after[1:]
        if norm.running_mean is None:
            raise ValueError(f"{norm_name} keeps no running statistics, which evaluation on one image needs")
    if not after or not isinstance(after[0][1], (nn.ReLU, nn.ReLU6)):
        seen = " → ".join(
            type(m).__name__ for m in (norm, *(m for _, m in after[:1])) if not isinstance(m, nn.Identity)
        )
        raise ValueError(
            f"{name} is followed by {seen or 'nothing'} in a {type(parent).__name__}; FTWT masks Conv2d → BatchNorm2d "
            "→ ReLU (or ReLU6) in an nn.Sequential: choose other convolutions by the pattern"
        )
    return norm_name, norm, prefix + after[0][0], after[0][1]
