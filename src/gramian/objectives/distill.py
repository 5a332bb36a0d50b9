"""Learning from another network's probabilities."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["soft_cross_entropy"]


def soft_cross_entropy(student: Float[Tensor, "*batch _"], teacher: Float[Tensor, "*batch _"]) -> Float[Tensor, ""]:
    r"""The mean of \(-\sum_v p_v \log q_v\), p the softmax of the teacher's logits, q of the student's.

    Over q it is least where q = p, and there it is the teacher's entropy.

    Raises:
        ValueError: vocabularies of different sizes.

    Source: Tang et al., "Bi-Mamba: Towards Accurate 1-Bit State Space Models", 2024, equation 5.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"the student has {student.shape[-1]} tokens and the teacher {teacher.shape[-1]}: they must share one "
            "vocabulary"
        )
    wide = torch.promote_types(student.dtype, torch.float32)
    p, log_q = teacher.detach().to(wide).softmax(-1), student.to(wide).log_softmax(-1)
    return -(p * log_q).sum(-1).mean()
