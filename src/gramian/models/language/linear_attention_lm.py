"""Language models over gated linear attention and DeltaNet, each layer followed by a SwiGLU perceptron."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.models.language.recurrent import RecurrentLM
from gramian.nn.state.convolution import uniform_
from gramian.nn.state.delta_net import DeltaNet
from gramian.nn.state.gla import GatedLinearAttention

__all__ = ["LinearAttentionLM", "Perceptron"]

MIXERS = ("gla", "delta_net")


class Perceptron(nn.Module):
    r"""\(W_\text{down}\,(\mathrm{silu}(W_\text{gate} x) \odot W_\text{up} x)\), with the face of a layer without state.

    Args:
        channels: width of the stream.
        expansion: inner width, in channels; rounded down.
        generator: of the initial weights.

    Raises:
        ValueError: an inner width below 1.
    """

    def __init__(self, channels: int, expansion: float | int = 8 / 3, generator: torch.Generator | None = None) -> None:
        super().__init__()
        inner = int(channels * expansion)
        if inner < 1:
            raise ValueError(f"expansion={expansion}: the perceptron of {channels} channels has no unit left")
        self.gate_proj = nn.utils.skip_init(nn.Linear, channels, inner, bias=False)
        self.up_proj = nn.utils.skip_init(nn.Linear, channels, inner, bias=False)
        self.down_proj = nn.utils.skip_init(nn.Linear, inner, channels, bias=False)
        for projection in (self.gate_proj, self.up_proj, self.down_proj):
            uniform_(projection, projection.in_features**-0.5, generator)

    def initial_state(self, batch: int) -> tuple[()]:
        """Nothing."""
        return ()

    def forward(
        self, x: Float[Tensor, "*batch channels"], state: tuple[()] | None = None
    ) -> tuple[Float[Tensor, "*batch channels"], tuple[()]]:
        """Outputs, and the state to go on from, which is nothing."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)), ()

    step = forward


class LinearAttentionLM(RecurrentLM):
    """A language model whose layers carry a matrix a head.

    Args:
        mixer: ``"gla"`` or ``"delta_net"``.
        vocabulary: tokens.
        channels: width of the stream.
        depth: layers; each is a mixer and a perceptron.
        num_heads: of a mixer.
        beta_range: of `DeltaNet`.
        conv_width: taps of the convolution of queries, keys and values.
        expansion: of the perceptrons.
        norm_eps, tied, end_tokens, pad_token: as of `RecurrentLM`.
        generator: of the initial weights.

    Raises:
        ValueError: an unknown mixer, or sizes that do not fit each other.

    Sources: Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training", 2023; Yang et al.,
    "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", 2024.

    >>> model = LinearAttentionLM("delta_net", 256, channels=16, depth=2, num_heads=2)
    >>> model(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 256])
    """

    model_type = "gramian-linear-attention"

    def __init__(
        self,
        mixer: str,
        vocabulary: int,
        channels: int,
        depth: int,
        *,
        num_heads: int = 4,
        beta_range: float | int = 1.0,
        conv_width: int = 4,
        expansion: float | int = 8 / 3,
        norm_eps: float = 1e-5,
        tied: bool = True,
        end_tokens: Iterable[int] = (),
        pad_token: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if mixer not in MIXERS:
            raise ValueError(f"mixer={mixer!r} is not one of {', '.join(MIXERS)}")
        mixers: list[nn.Module] = []
        for _ in range(depth):
            if mixer == "gla":
                layer = GatedLinearAttention(channels, num_heads, conv_width=conv_width, generator=generator)
            else:
                layer = DeltaNet(channels, num_heads, beta_range, conv_width=conv_width, generator=generator)
            mixers += [layer, Perceptron(channels, expansion, generator)]
        super().__init__(
            mixers, vocabulary, channels, norm_eps=norm_eps, tied=tied, wide_residual=False, end_tokens=end_tokens,
            pad_token=pad_token, generator=generator,
        )  # fmt: skip
        self.shape = {
            "mixer": mixer, "depth": depth, "num_heads": num_heads, "beta_range": beta_range, "conv_width": conv_width,
            "expansion": expansion, "norm_eps": norm_eps,
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LinearAttentionLM:
        """A model with random weights of the architecture that `config` described."""
        shape = dict(config["shape"])
        return cls(
            shape.pop("mixer"), config["vocab_size"], config["hidden_size"], shape.pop("depth"), **shape,
            tied=config["tie_word_embeddings"], end_tokens=config["eos_token_id"], pad_token=config["pad_token_id"],
        )  # fmt: skip

    def config(self) -> dict[str, Any]:
        """What `from_config` needs. transformers has no such architecture: only gramian reads the folder."""
        return {
            "model_type": self.model_type, "vocab_size": self.vocabulary, "hidden_size": self.channels,
            "tie_word_embeddings": self.tied, "eos_token_id": list(self.end_tokens), "pad_token_id": self.pad_token,
            "shape": self.shape,
        }  # fmt: skip
