"""Ask a language model about the last token of prompts again and again: everything before it is read once."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["LastToken"]


class LastToken(nn.Module):
    """A transformers language model on stored prompts: ``net(rows)`` gives the logits after the prompts `rows`.

    Keys and values of all tokens but the last are kept, so that a patch at the last token (the only position that a
    call runs) costs one token a prompt. Modules of the model go by their names behind ``"model."``.

    Args:
        model: a transformers causal language model.
        ids: prompts of one length, at least two tokens.

    Raises:
        ValueError: prompts of one token.
    """

    def __init__(self, model: nn.Module, ids: Int[Tensor, "prompts length"]) -> None:
        super().__init__()
        if ids.shape[1] < 2:
            raise ValueError("prompts of one token leave nothing to read beforehand; give at least two tokens")
        self.model = model
        self.last = ids[:, -1:]
        reader: Any = model
        with torch.no_grad():
            layers = reader(ids[:, :-1], use_cache=True, logits_to_keep=1).past_key_values.layers
        self.kept = [(layer.keys, layer.values) for layer in layers]

    def forward(self, rows: Int[Tensor, " samples"]) -> Float[Tensor, "samples vocabulary"]:
        """Logits after each of the prompts `rows`."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.kept):
            cache.update(keys[rows], values[rows], layer)
        return self.model(self.last[rows], past_key_values=cache).logits[:, -1]
