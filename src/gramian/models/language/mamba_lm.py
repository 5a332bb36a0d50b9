"""Mamba as a language model, with Hugging Face's weights if wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from gramian.models.language import huggingface
from gramian.models.language.recurrent import RecurrentLM
from gramian.nn.state.mamba import Mamba

__all__ = ["MambaLM"]


class MambaLM(RecurrentLM):
    """A language model of Mamba blocks.

    Args:
        vocabulary: tokens.
        channels: width of the stream.
        depth: blocks.
        state_size, expand, conv_width, dt_rank, bias, conv_bias: as of `gramian.nn.state.mamba.Mamba`.
        norm_eps, tied, wide_residual, end_tokens, pad_token: as of `RecurrentLM`.
        generator: of the initial weights.

    Raises:
        ValueError: sizes below 1.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023.

    >>> model = MambaLM(256, channels=16, depth=2)
    >>> model(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 256])
    >>> model.generate(torch.zeros(1, 5, dtype=torch.long), max_new_tokens=3).shape
    torch.Size([1, 8])
    """

    model_type = "mamba"

    def __init__(
        self,
        vocabulary: int,
        channels: int,
        depth: int,
        *,
        state_size: int = 16,
        expand: int = 2,
        conv_width: int = 4,
        dt_rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        norm_eps: float = 1e-5,
        tied: bool = True,
        wide_residual: bool = True,
        end_tokens: Iterable[int] = (),
        pad_token: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        settings = {"bias": bias, "conv_bias": conv_bias, "generator": generator}
        mixers = [Mamba(channels, state_size, expand, conv_width, dt_rank, **settings) for _ in range(depth)]
        super().__init__(
            mixers, vocabulary, channels, norm_eps=norm_eps, tied=tied, wide_residual=wide_residual,
            end_tokens=end_tokens, pad_token=pad_token, generator=generator,
        )  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MambaLM:
        """A model with random weights of the architecture that a Hugging Face configuration describes.

        Raises:
            ValueError: a part that is not built here.
        """
        huggingface.require(config, hidden_act="silu")
        rank = config.get("time_step_rank", "auto")
        return cls(
            config["vocab_size"],
            config["hidden_size"],
            config["num_hidden_layers"],
            state_size=config.get("state_size", 16),
            expand=int(config.get("expand", 2)),
            conv_width=config.get("conv_kernel", 4),
            dt_rank=math.ceil(config["hidden_size"] / 16) if rank == "auto" else int(rank),
            bias=config.get("use_bias", False),
            conv_bias=config.get("use_conv_bias", True),
            norm_eps=config.get("layer_norm_epsilon", 1e-5),
            tied=config.get("tie_word_embeddings", True),
            wide_residual=config.get("residual_in_fp32", True),
            end_tokens=huggingface.end_tokens(config),
            pad_token=config.get("pad_token_id") or 0,
        )

    def config(self) -> dict[str, Any]:
        """The Hugging Face configuration of this architecture."""
        layer = self.backbone.layers[0]
        mixer = layer.mixer
        return {
            "architectures": ["MambaForCausalLM"], "model_type": self.model_type, "vocab_size": self.vocabulary,
            "hidden_size": self.channels, "intermediate_size": mixer.inner, "state_size": mixer.state_size,
            "num_hidden_layers": len(self.backbone.layers), "expand": mixer.inner // self.channels,
            "conv_kernel": mixer.conv1d.kernel_size[0], "time_step_rank": mixer.dt_rank, "hidden_act": "silu",
            "use_bias": mixer.in_proj.bias is not None, "use_conv_bias": mixer.conv1d.bias is not None,
            "layer_norm_epsilon": layer.norm.eps, "residual_in_fp32": layer.wide_residual,
            "tie_word_embeddings": self.tied, "eos_token_id": list(self.end_tokens) or None,
            "pad_token_id": self.pad_token, "bos_token_id": None,
        }  # fmt: skip
