"""Quamba2: a trained Mamba-2 with 4- or 8-bit weights and 8- or 16-bit activations, its channels sorted by size."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.linalg.signal.paley import split_size
from gramian.models.language.mamba2_lm import Mamba2LM
from gramian.nn.quantized.embedding import StaticEmbedding
from gramian.nn.quantized.mamba2 import GROUP, WEIGHT_BITS, QuantHead, QuantMamba2
from gramian.nn.state.mamba2 import Mamba2
from gramian.surgery.quantize import rotation
from gramian.surgery.quantize.clusters import Clusters, sort_and_cluster

__all__ = ["channel_magnitudes", "expected_bytes", "quantize", "reorder"]

PIECES = 4
"""Pieces in which calibration texts are read: the states between them are what the states' scales must hold."""


@torch.no_grad()
def channel_magnitudes(model: Mamba2LM, calibration: Int[Tensor, "samples length"]) -> list[Float[Tensor, " channels"]]:
    """For each layer: how large each channel of x is, as the largest over texts of its mean |x|.

    Raises:
        ValueError: no text.
    """
    if not calibration.numel():
        raise ValueError("no calibration text: at least one is needed")
    layers = _mixers(model)
    found: list[Tensor | None] = [None] * len(layers)

    def hook(number: int, inner: int):
        def see(module: nn.Module, arguments: tuple, output: tuple[Tensor, Tensor]) -> None:
            mean = output[0][:, :inner].abs().mean((0, 2))
            known = found[number]
            found[number] = mean if known is None else torch.maximum(known, mean)

        return see

    handles = [layer.conv1d.register_forward_hook(hook(i, layer.inner)) for i, layer in enumerate(layers)]
    try:
        for text in calibration:
            model(text[None])
    finally:
        for handle in handles:
            handle.remove()
    return [f for f in found if f is not None]


@torch.no_grad()
def reorder(model: Mamba2LM, clusters: Sequence[Clusters]) -> None:
    """Put heads and channels of every layer into a new order, in place; the model computes what it did.

    Moved are: the rows of the projection in for z, x and the step sizes, the convolution's channels for x, A, D and
    the steps' biases by head, the norm's weight, and the columns of the projection out.

    Raises:
        TypeError: something else than a `Mamba2LM` of Mamba-2 blocks.
        ValueError: not one order for each layer, no permutation, a head that leaves its SSD group (it would read
            another's B and C) or a channel that leaves its head.
    """
    layers = _mixers(model)
    if len(clusters) != len(layers):
        raise ValueError(f"{len(clusters)} orders for {len(layers)} layers")
    for number, (layer, cluster) in enumerate(zip(layers, clusters, strict=True)):
        try:
            _check_order(layer, cluster)
        except ValueError as error:
            raise ValueError(f"layer {number}: {error}") from error
    for layer, cluster in zip(layers, clusters, strict=True):
        device = layer.D.device
        channels, heads = cluster.channels.to(device), cluster.heads.to(device)
        shared = 2 * layer.num_groups * layer.state_size
        kept = torch.arange(shared, device=device)
        convolved = torch.cat((channels, layer.inner + kept))
        rows = torch.cat((channels, layer.inner + convolved, 2 * layer.inner + shared + heads))
        for tensor, order in (
            (layer.in_proj.weight, rows), (layer.in_proj.bias, rows), (layer.conv1d.weight, convolved),
            (layer.conv1d.bias, convolved), (layer.A_log, heads), (layer.D, heads), (layer.dt_bias, heads),
            (layer.norm.weight, channels),
        ):  # fmt: skip
            if tensor is not None:
                tensor.copy_(tensor[order])
        layer.out_proj.weight.copy_(layer.out_proj.weight[:, channels])


def _check_order(layer: Mamba2, cluster: Clusters) -> None:
    heads, channels = cluster.heads.cpu(), cluster.channels.cpu()
    for name, order, count in (("heads", heads, layer.num_heads), ("channels", channels, layer.inner)):
        if not torch.equal(order.sort().values, torch.arange(count)):
            raise ValueError(f"the order of the {name} is no permutation of 0 … {count - 1}")
    shared = layer.num_heads // layer.num_groups
    left = (heads // shared != torch.arange(layer.num_heads) // shared).nonzero().flatten()
    if len(left):
        place = int(left[0])
        raise ValueError(
            f"head {int(heads[place])} would leave its SSD group for place {place}; heads of a group share B and C"
        )
    if not torch.equal(channels // layer.head_size, heads.repeat_interleave(layer.head_size)):
        raise ValueError("a channel would leave its head: the order of the channels must follow that of the heads")


def quantize(
    model: Mamba2LM,
    calibration: Int[Tensor, "samples length"],
    weight_bits: int = 4,
    activation_bits: int = 8,
    groups: tuple[int, int] | None = (4, 4),
    mix: Sequence[tuple[int, int]] | None = None,
    hadamard: bool = True,
    use_gptq: bool = True,
    keep_state: bool = False,
) -> Mamba2LM:
    """A copy of a Mamba-2 language model in few bits: W8A8, W4A8, W4A16, or a mix of them by layer.

    Norms are folded and the stream is turned; channels are sorted and clustered by what the calibration shows; the
    weights follow in that order; then scales are fixed and weights rounded. The copy reads, steps and generates.

    Args:
        calibration: texts.
        weight_bits: 4, 8 or 16; of embedding and head too.
        activation_bits: 8 or 16.
        groups: groups of heads and runs of channels that get a scale of their own in every SSD group; None: one scale
            for each of x, B and C.
        mix: (weight_bits, activation_bits) for each layer instead.
        hadamard, use_gptq: leave them out to see what they do.
        keep_state: leave the matrix states between calls as floats.

    Raises:
        TypeError: something else than a `Mamba2LM` of Mamba-2 blocks.
        ValueError: other bits, a mix of another length, a width without a Hadamard matrix, no calibration text, NaN or
            infinity.

    Source: Chiang et al., "Quamba2: A Robust and Scalable Post-training Quantization Framework for Selective State
    Space Models", 2025.
    """
    layers = _mixers(model)
    settings = [(weight_bits, activation_bits)] * len(layers) if mix is None else [tuple(m) for m in mix]
    if len(settings) != len(layers):
        raise ValueError(f"mix has {len(settings)} entries for {len(layers)} layers")
    for bits, activation in (*settings, (weight_bits, activation_bits)):
        if bits not in WEIGHT_BITS or activation not in (8, 16):
            raise ValueError(f"W{bits}A{activation}: weights take 4, 8 or 16 bits, activations 8 or 16")
    if hadamard:
        for size in {model.channels, *(layer.inner for layer in layers)}:
            try:
                split_size(size)
            except ValueError as error:
                raise ValueError(f"{error}; hadamard=False does without") from error
    new = copy.deepcopy(model).eval().requires_grad_(False)
    rotation.fold_norms(new)
    if hadamard:
        rotation.rotate_stream(new)
    scale_of: list[Tensor | None] = [None] * len(layers)
    if groups is not None:
        pairs = zip(_mixers(new), channel_magnitudes(new, calibration), strict=True)
        clusters = [sort_and_cluster(m, layer.num_groups, layer.head_size, groups) for layer, m in pairs]
        reorder(new, clusters)
        scale_of = [c.scale_of.to(calibration.device) for c in clusters]
    for block, (bits, activation), scales in zip(new.backbone.layers, settings, scale_of, strict=True):
        block.mixer = QuantMamba2.prepare(block.mixer, bits, activation, scales, hadamard, use_gptq, keep_state)
    new.lm_head = QuantHead(new.lm_head, weight_bits, activation_bits, use_gptq)
    _calibrate(new, calibration)
    for number, block in enumerate(new.backbone.layers):
        try:
            block.mixer.freeze()
        except ValueError as error:
            raise ValueError(f"layer {number}, {error}") from error
    new.lm_head.freeze()
    if weight_bits != 16:
        new.backbone.embeddings = StaticEmbedding(new.backbone.embeddings.weight, weight_bits, GROUP)
    return new.requires_grad_(False)


def expected_bytes(model: Mamba2LM, weight_bits: int) -> int:
    """What `quantize` leaves of a model with 16-bit activations, from the sizes alone: also of models without memory.

    Projections, embedding and head take `weight_bits` a weight and 16 bits for each scale (one for each 128 inputs of
    a row with 4 bits; the embedding also with 8); all else takes 16 bits. A tied head is counted by itself: folding
    the last norm unties it.
    """
    if weight_bits not in WEIGHT_BITS:
        raise ValueError(f"weight_bits={weight_bits}: weights take 4, 8 or 16 bits")
    layers = [(layer.weight, weight_bits == 4) for m in _mixers(model) for layer in (m.in_proj, m.out_proj)]
    layers += [(model.lm_head.weight, weight_bits == 4), (model.backbone.embeddings.weight, True)]
    inside = {id(weight) for weight, _ in layers}
    total = sum(2 * p.numel() for p in model.parameters() if id(p) not in inside)
    for weight, grouped in layers:
        rows, inner = weight.shape
        total += -(-rows * inner * weight_bits // 8)
        if weight_bits != 16:
            total += 2 * (rows * -(-inner // GROUP) if grouped else 1)
    return total


@torch.no_grad()
def _calibrate(model: Mamba2LM, calibration: Tensor) -> None:
    if not calibration.numel():
        raise ValueError("no calibration text: static scales need at least one")
    for text in calibration:
        states = None
        for piece in text[None].chunk(PIECES, 1):
            _, states = model.read(piece, states)


def _mixers(model: Mamba2LM) -> list[Mamba2]:
    found = [block.mixer for block in model.backbone.layers] if isinstance(model, Mamba2LM) else []
    if not found or not all(isinstance(m, Mamba2) for m in found):
        raise TypeError(f"Quamba2 quantizes a Mamba2LM of Mamba-2 blocks, not a {type(model).__name__}")
    return found
