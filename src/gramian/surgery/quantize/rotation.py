r"""Turn the stream of a language model by a Hadamard matrix, exactly: outliers spread over all channels.

The root mean square norm without a weight commutes with every rotation. So each norm's weight is moved into the layer
that follows, and the basis of the stream may be chosen: embedding rows, the projections out of every block, and what
reads the stream are turned, and the logits stay what they were.
"""

from __future__ import annotations

import torch
from torch import nn

from gramian.linalg.signal.paley import hadamard_transform, split_size
from gramian.models.language.recurrent import RecurrentLM

__all__ = ["fold_norms", "rotate_stream", "untie"]


def untie(model: RecurrentLM) -> None:
    """Give the head a weight of its own, in place."""
    if model.lm_head.weight is model.backbone.embeddings.weight:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.tied = False


@torch.no_grad()
def fold_norms(model: RecurrentLM) -> None:
    """Move the weights of the norms in front of blocks and head into what follows, in place; the head is untied.

    Raises:
        TypeError: a layer without a projection in.
    """
    untie(model)
    followers = [(model.backbone.norm_f, model.lm_head)]
    for block in model.backbone.layers:
        follower = getattr(block.mixer, "in_proj", None)
        if not isinstance(follower, nn.Linear):
            raise TypeError(f"a {type(block.mixer).__name__} has no in_proj to take the norm's weight")
        followers.append((block.norm, follower))
    for norm, follower in followers:
        follower.weight.mul_(norm.weight)
        norm.weight.fill_(1.0)


@torch.no_grad()
def rotate_stream(model: RecurrentLM) -> None:
    """Turn the stream by H/√d, in place; the model computes what it did, up to rounding.

    Raises:
        ValueError: a width without a Hadamard matrix, or norms whose weights were not folded before.
        TypeError: as `fold_norms`.
    """
    split_size(model.channels)
    norms = [model.backbone.norm_f, *(block.norm for block in model.backbone.layers)]
    if any(bool((norm.weight != 1).any()) for norm in norms) or model.tied:
        raise ValueError("a norm still has a weight: call fold_norms first, a weighted norm does not turn")
    readers = [model.lm_head, *(block.mixer.in_proj for block in model.backbone.layers)]
    for layer in (model.backbone.embeddings, *readers):
        layer.weight.copy_(hadamard_transform(layer.weight))
    for block in model.backbone.layers:
        out = block.mixer.out_proj
        out.weight.copy_(hadamard_transform(out.weight.mT).mT)
        if out.bias is not None:
            out.bias.copy_(hadamard_transform(out.bias))
