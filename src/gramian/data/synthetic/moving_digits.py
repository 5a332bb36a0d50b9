"""Clips of a handwritten digit that moves over a dark ground and bounces off its edges."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["moving_digits"]


def moving_digits(
    images: Float[Tensor, "clips height width"], frames: int, size: int, generator: torch.Generator, hold: int = 1
) -> Float[Tensor, "clips frames size size"]:
    """Each image on a canvas of its own, moving by −1, 0 or 1 pixels an axis, every `hold` frames.

    Start and direction are drawn uniformly; no clip stands still; at an edge it turns round.

    Args:
        images: what moves, brightness from 0.
        frames: how many.
        size: of the square canvas, larger than the images.
        generator: where starts and directions come from.
        hold: frames from one move to the next.

    Raises:
        ValueError: no frames, or a canvas that is not larger than the images.
    """
    clips, height, width = images.shape
    if frames < 1 or hold < 1 or size <= max(height, width):
        raise ValueError(
            f"frames={frames} and hold={hold} must be at least 1, and size={size} larger than {height} × {width}"
        )
    at = _tracks(clips, -(-frames // hold), torch.tensor([size - height, size - width]), generator)
    at = at.repeat_interleave(hold, 1)[:, :frames]
    video = torch.zeros(clips, frames, size, size, dtype=images.dtype)
    rows = at[..., 0, None, None] + torch.arange(height)[:, None]
    columns = at[..., 1, None, None] + torch.arange(width)
    clip, frame = torch.arange(clips)[:, None, None, None], torch.arange(frames)[:, None, None]
    video[clip, frame, rows, columns] = images[:, None].expand(-1, frames, -1, -1)
    return video


def _tracks(clips: int, frames: int, room: Tensor, generator: torch.Generator) -> Int[Tensor, "clips frames 2"]:
    start = (torch.rand(clips, 2, generator=generator) * (room + 1)).long()
    which = torch.randint(8, (clips,), generator=generator)
    which = which + (which >= 4).long()  # all nine but the one that stands still
    velocity = torch.stack([which // 3, which % 3], 1) - 1
    free = start[:, None] + velocity[:, None] * torch.arange(frames)[:, None]
    folded = free.remainder(2 * room)  # a path that bounces is a straight one, folded
    return torch.where(folded > room, 2 * room - folded, folded)
