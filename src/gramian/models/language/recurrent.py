"""Language models over recurrent layers: embedding, residual blocks, head; read at once, in pieces or by tokens."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.models.language import huggingface
from gramian.models.language.generation import generate

__all__ = ["RecurrentLM"]

States = tuple[Any, ...]
"""One state a layer, as the layer itself defines it."""


class Norm(nn.RMSNorm):
    """A root mean square norm that computes in float32 at least and answers in the input's type."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        scaled = nn.functional.rms_norm(x.to(wide), self.normalized_shape, None, self.eps)
        return self.weight * scaled.to(x.dtype)


class Block(nn.Module):
    """x + mixer(norm(x))."""

    def __init__(self, mixer: nn.Module, channels: int, eps: float, wide_residual: bool) -> None:
        super().__init__()
        self.norm = Norm(channels, eps=eps)
        self.mixer = mixer
        self.wide_residual = wide_residual

    def forward(self, x: Tensor, state: Any = None, step: bool = False) -> tuple[Tensor, Any]:
        mix = self.mixer.step if step else self.mixer
        mixed, state = mix(self.norm(x.to(self.norm.weight.dtype)), state)
        if self.wide_residual:
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x + mixed, state


class Backbone(nn.Module):
    """Embeddings, blocks and the last norm."""

    def __init__(self, embeddings: nn.Embedding, layers: Iterable[Block], norm: Norm) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = nn.ModuleList(layers)
        self.norm_f = norm


class RecurrentLM(nn.Module, abc.ABC):
    """What the language models over recurrent layers share; the names of the parameters are Hugging Face's.

    Args:
        mixers: the layers, each with ``forward(x, state) -> (y, state)`` and ``step``.
        vocabulary: tokens.
        channels: width of the stream.
        norm_eps: of all norms.
        tied: whether the head is the embedding.
        wide_residual: whether a model in half precision adds up its blocks in float32.
        end_tokens, pad_token: what ends a generated text, and what fills a row of a batch after its end.
        generator: of the embedding's (and the head's) initial weights.

    Raises:
        ValueError: a vocabulary or width below 1, or no layer.
    """

    model_type: str
    """Hugging Face's name of the architecture."""

    def __init__(
        self,
        mixers: Iterable[nn.Module],
        vocabulary: int,
        channels: int,
        *,
        norm_eps: float = 1e-5,
        tied: bool = True,
        wide_residual: bool = True,
        end_tokens: Iterable[int] = (),
        pad_token: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        mixers = list(mixers)
        if vocabulary < 1 or channels < 1 or not mixers:
            raise ValueError(f"vocabulary={vocabulary}, channels={channels}, {len(mixers)} layers: each at least 1")
        self.vocabulary, self.channels, self.tied = vocabulary, channels, tied
        self.end_tokens, self.pad_token = tuple(end_tokens), pad_token
        embeddings = nn.utils.skip_init(nn.Embedding, vocabulary, channels)
        layers = [Block(mixer, channels, norm_eps, wide_residual) for mixer in mixers]
        self.backbone = Backbone(embeddings, layers, Norm(channels, eps=norm_eps))
        self.lm_head = nn.utils.skip_init(nn.Linear, channels, vocabulary, bias=False)
        with torch.no_grad():
            embeddings.weight.normal_(0, 0.02, generator=generator)
            if not tied:
                self.lm_head.weight.normal_(0, 0.02, generator=generator)
        if tied:
            self.lm_head.weight = embeddings.weight

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config: dict[str, Any]) -> RecurrentLM:
        """A model with random weights of the architecture that a Hugging Face configuration describes."""

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """The Hugging Face configuration of this architecture."""

    @classmethod
    def from_huggingface(cls, source: nn.Module | str | Path) -> RecurrentLM:
        """A model with the weights of a Hugging Face model, or of the folder that ``save_pretrained`` wrote.

        Of a folder, ``config.json`` and the safetensors files are read; transformers is not needed, and nothing is
        downloaded.

        Raises:
            FileNotFoundError: no such folder, or a file is missing in it.
            ValueError: another architecture, a configuration with a part that is not built here, a truncated file, or
                weights that do not fit the configuration.
        """
        config, tensors = huggingface.read(source, cls.model_type, cls.__name__)
        with torch.device("meta"):
            model = cls.from_config(config)
        huggingface.fill(model, tensors, tied=model.tied)
        return model.eval()

    def to_huggingface(self, folder: str | Path) -> Path:
        """Write a folder that transformers and `from_huggingface` read: ``config.json`` and ``model.safetensors``."""
        return huggingface.write(self, folder, self.config(), tied=self.tied)

    def initial_states(self, batch: int) -> States:
        """Zeros, for each layer."""
        return tuple(layer.mixer.initial_state(batch) for layer in self.backbone.layers)

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """The logits of the next token at every position.

        Raises:
            ValueError: no token, or one outside the vocabulary.
        """
        return self.read(ids)[0]

    def read(
        self, ids: Int[Tensor, "batch length"], states: States | None = None, last_only: bool = False
    ) -> tuple[Float[Tensor, "batch positions vocabulary"], States]:
        """Read a piece of text: logits at its positions (or the last one only), and the states to go on from.

        Raises:
            ValueError: as `forward`, or another number of states than layers.
        """
        self._check(ids)
        x, states = self._through(self.backbone.embeddings(ids), states, step=False)
        return self._logits(x[:, -1:] if last_only else x), states

    def step(
        self, ids: Int[Tensor, " batch"], states: States | None = None
    ) -> tuple[Float[Tensor, "batch vocabulary"], States]:
        """One token of each text: the logits of the next, and the states after it.

        Raises:
            ValueError: as `read`.
        """
        self._check(ids[:, None])
        x, states = self._through(self.backbone.embeddings(ids), states, step=True)
        return self._logits(x), states

    def generate(
        self,
        ids: Int[Tensor, "batch length"],
        max_new_tokens: int,
        *,
        temperature: float | int = 0.0,
        cached: bool = True,
        end_tokens: Iterable[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """Continue texts; see `gramian.models.language.generation.generate`.

        Args:
            end_tokens: what ends a text; by default what the model's configuration says, ``()`` for nothing.
        """
        ends = self.end_tokens if end_tokens is None else tuple(end_tokens)
        settings = {"temperature": temperature, "cached": cached, "generator": generator}
        return generate(self, ids, max_new_tokens, end_tokens=ends, pad_token=self.pad_token, **settings)

    def _through(self, x: Tensor, states: States | None, step: bool) -> tuple[Tensor, States]:
        layers = self.backbone.layers
        if states is not None and len(states) != len(layers):
            raise ValueError(f"{len(states)} states for {len(layers)} layers")
        after = []
        for layer, state in zip(layers, states or [None] * len(layers), strict=True):
            x, state = layer(x, state, step)
            after.append(state)
        return x, tuple(after)

    def _logits(self, x: Tensor) -> Tensor:
        return self.lm_head(self.backbone.norm_f(x).to(self.lm_head.weight.dtype))

    def _check(self, ids: Tensor) -> None:
        if ids.ndim != 2 or not ids.numel():
            raise ValueError(f"ids has shape {tuple(ids.shape)}; at least one token of at least one text is needed")
        if not torch.compiler.is_compiling() and not ids.is_meta:
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.vocabulary:
                raise ValueError(f"ids run from {low} to {high}; the vocabulary ends at {self.vocabulary - 1}")
