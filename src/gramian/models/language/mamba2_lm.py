"""Mamba-2 as a language model, with Hugging Face's weights if wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from gramian.models.language import huggingface
from gramian.models.language.recurrent import RecurrentLM
from gramian.nn.state.mamba2 import Mamba2

__all__ = ["Mamba2LM"]


class Mamba2LM(RecurrentLM):
    """A language model of Mamba-2 blocks.

    Args:
        vocabulary: tokens.
        channels: width of the stream.
        depth: blocks.
        state_size, head_size, expand, num_groups, conv_width, dt_limit, bias, conv_bias: as of
            `gramian.nn.state.mamba2.Mamba2`.
        norm_eps, tied, wide_residual, end_tokens, pad_token: as of `RecurrentLM`.
        generator: of the initial weights.

    Raises:
        ValueError: sizes that do not fit each other.

    Source: Dao and Gu, "Transformers are SSMs", 2024.

    >>> model = Mamba2LM(256, channels=16, depth=2, state_size=8, head_size=8)
    >>> model(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 256])
    """

    model_type = "mamba2"

    def __init__(
        self,
        vocabulary: int,
        channels: int,
        depth: int,
        *,
        state_size: int = 128,
        head_size: int = 64,
        expand: int = 2,
        num_groups: int = 1,
        conv_width: int = 4,
        dt_limit: tuple[float, float] = (0.0, math.inf),
        bias: bool = False,
        conv_bias: bool = True,
        norm_eps: float = 1e-5,
        tied: bool = True,
        wide_residual: bool = True,
        end_tokens: Iterable[int] = (),
        pad_token: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        mixers = [
            Mamba2(
                channels, state_size, head_size, expand, num_groups, conv_width, dt_limit=dt_limit, bias=bias,
                conv_bias=conv_bias, norm_eps=norm_eps, generator=generator,
            )
            for _ in range(depth)
        ]  # fmt: skip
        super().__init__(
            mixers, vocabulary, channels, norm_eps=norm_eps, tied=tied, wide_residual=wide_residual,
            end_tokens=end_tokens, pad_token=pad_token, generator=generator,
        )  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Mamba2LM:
        """A model with random weights of the architecture that a Hugging Face configuration describes.

        Raises:
            ValueError: a part that is not built here, or heads that do not fill the inner width.
        """
        huggingface.require(config, hidden_act="silu")
        width, expand, head_size = config["hidden_size"], int(config.get("expand", 2)), config.get("head_dim", 64)
        heads = config.get("num_heads", 128)
        if heads * head_size != expand * width:
            raise ValueError(f"{heads} heads of {head_size} do not fill the inner width {expand * width}")
        low, high = config.get("time_step_limit", (0.0, math.inf))
        return cls(
            config["vocab_size"],
            width,
            config["num_hidden_layers"],
            state_size=config.get("state_size", 128),
            head_size=head_size,
            expand=expand,
            num_groups=config.get("n_groups", 8),
            conv_width=config.get("conv_kernel", 4),
            dt_limit=(huggingface.number(low), huggingface.number(high)),
            bias=config.get("use_bias", False),
            conv_bias=config.get("use_conv_bias", True),
            norm_eps=config.get("layer_norm_epsilon", 1e-5),
            tied=config.get("tie_word_embeddings", False),
            wide_residual=config.get("residual_in_fp32", True),
            end_tokens=huggingface.end_tokens(config),
            pad_token=config.get("pad_token_id") or 0,
        )

    def config(self) -> dict[str, Any]:
        """The Hugging Face configuration of this architecture."""
        layer = self.backbone.layers[0]
        mixer = layer.mixer
        return {
            "architectures": ["Mamba2ForCausalLM"], "model_type": self.model_type, "vocab_size": self.vocabulary,
            "hidden_size": self.channels, "num_heads": mixer.num_heads, "head_dim": mixer.head_size,
            "state_size": mixer.state_size, "n_groups": mixer.num_groups,
            "num_hidden_layers": len(self.backbone.layers), "expand": mixer.inner // self.channels,
            "conv_kernel": mixer.conv1d.kernel_size[0], "hidden_act": "silu", "time_step_limit": mixer.dt_limit,
            "use_bias": mixer.in_proj.bias is not None, "use_conv_bias": mixer.conv1d.bias is not None,
            "layer_norm_epsilon": layer.norm.eps, "residual_in_fp32": layer.wide_residual,
            "tie_word_embeddings": self.tied, "eos_token_id": list(self.end_tokens) or None,
            "pad_token_id": self.pad_token, "bos_token_id": None,
        }  # fmt: skip
