"""Quamba: a trained Mamba in 8 bits, weights and activations, one fixed scale a tensor."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gramian.linalg.signal.paley import split_size
from gramian.models.language.mamba_lm import MambaLM
from gramian.models.language.recurrent import RecurrentLM
from gramian.nn.quantized.mamba import QuantMamba
from gramian.nn.quantized.static import StaticConvolution, StaticLinear
from gramian.nn.state.mamba import Mamba
from gramian.surgery.quantize import rotation

__all__ = ["calibrate", "quantize_mamba", "stored_bytes"]


def quantize_mamba(
    model: MambaLM,
    calibration: Int[Tensor, "samples length"],
    percentile: float | int | None = 0.9995,
    hadamard: bool = True,
) -> MambaLM:
    """A copy of a Mamba language model with int8 blocks; embedding and head stay floats.

    The weights of the norms go into what follows them; with `hadamard` the stream is turned and every block turns the
    output of its scan before rounding it. Then the calibration texts run through, which fixes all scales. The copy
    reads pieces, steps and generates as the model does.

    Args:
        calibration: texts, each of any length; a moving average over them sets the percentile's scale.
        percentile: the share of the scan's inputs that is not cut; None cuts nothing.

    Raises:
        TypeError: something else than a `MambaLM` of Mamba blocks.
        ValueError: no calibration text, a percentile outside (0.5, 1], a width without a Hadamard matrix, NaN or
            infinity in weights or activations.

    Source: Chiang et al., "Quamba: A Post-Training Quantization Recipe for Selective State Space Models", 2024.
    """
    if not isinstance(model, MambaLM) or not all(isinstance(b.mixer, Mamba) for b in model.backbone.layers):
        raise TypeError(f"Quamba quantizes a MambaLM of Mamba blocks, not a {type(model).__name__}")
    if hadamard:
        for size in {model.channels, *(block.mixer.inner for block in model.backbone.layers)}:
            try:
                split_size(size)
            except ValueError as error:
                raise ValueError(f"{error}; hadamard=False does without") from error
    new = copy.deepcopy(model).eval().requires_grad_(False)
    rotation.fold_norms(new)
    if hadamard:
        rotation.rotate_stream(new)
    for block in new.backbone.layers:
        block.mixer = QuantMamba.prepare(block.mixer, percentile, hadamard)
    calibrate(new, calibration)
    for number, block in enumerate(new.backbone.layers):
        try:
            block.mixer.freeze()
        except ValueError as error:
            raise ValueError(f"layer {number}, {error}") from error
    return new.requires_grad_(False)


@torch.no_grad()
def calibrate(model: RecurrentLM, calibration: Int[Tensor, "samples length"]) -> None:
    """Run texts through a prepared model, one after the other.

    Raises:
        ValueError: no text, or what the model raises.
    """
    if not calibration.numel():
        raise ValueError("no calibration text: static scales need at least one")
    for text in calibration:
        model(text[None])


def stored_bytes(model: nn.Module) -> int:
    """What a model takes in a file: the codes of quantized layers, everything else in 16 bits."""
    quantized = [m for m in model.modules() if isinstance(m, (StaticLinear, StaticConvolution))]
    inside = {id(t) for m in quantized for t in m.buffers()}
    others = {id(t): t for t in (*model.parameters(), *model.buffers()) if id(t) not in inside}
    return sum(m.nbytes for m in quantized) + 2 * sum(t.numel() for t in others.values())
