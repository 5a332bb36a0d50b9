"""The trained networks: SmolLM2-135M, all-MiniLM-L6-v2 and EfficientNet-Lite0, by name.

Their weights are fetched like any data set (``gramian data fetch smollm2-135m``); nothing is downloaded here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from gramian import data
from gramian.lab import Missing

PRETRAINED = ("smollm2_135m", "all_minilm_l6_v2", "efficientnet_lite0")
"""The names that `pretrained` knows."""

_LANGUAGE = {"smollm2_135m": "AutoModelForCausalLM", "all_minilm_l6_v2": "AutoModel"}


def pretrained(name: str, **options: Any) -> nn.Module:
    """The trained network `name`, in evaluation mode, float32, on the CPU.

    Args:
        name: one of `PRETRAINED`; case, ``-`` and ``_`` do not matter.
        options: for the language models, passed on to transformers' ``from_pretrained``; such as
            ``attn_implementation="eager"`` where attention weights are to be read.

    Raises:
        ValueError: no such network, or options for one that takes none.
        Missing: the weights or transformers are not on this machine; the message names the command.
    """
    known = _known(name)
    if known not in _LANGUAGE:
        if options:
            raise ValueError(f"{known} takes no options; given: {', '.join(options)}")
        from gramian.models.vision.efficientnet_lite import efficientnet_lite0

        return efficientnet_lite0(pretrained=True)
    folder = data.path(known)
    transformers = _transformers(known)
    with _no_bars(transformers):
        loader = getattr(transformers, _LANGUAGE[known])
        return loader.from_pretrained(folder, local_files_only=True, **options).eval()


def tokenizer(name: str) -> Any:
    """The tokenizer of the language model `name`: a transformers tokenizer; calling it on text gives ``input_ids``.

    Raises:
        ValueError: no such network, or one that reads no text.
        Missing: its files or transformers are not on this machine.
    """
    known = _known(name)
    if known not in _LANGUAGE:
        raise ValueError(f"{known} reads no text; tokenizers are there for {', '.join(_LANGUAGE)}")
    folder = data.path(known)
    return _transformers(known).AutoTokenizer.from_pretrained(folder, local_files_only=True)


def embed_sentences(
    sentences: Sequence[str], model: nn.Module | None = None, tokenize: Any = None
) -> Float[Tensor, "sentences width"]:
    """Sentence embeddings of all-MiniLM-L6-v2: its last states averaged over the tokens, then scaled to length 1.

    Args:
        sentences: at least one; tokens beyond the model's 512 positions are cut off.
        model: the network, if it is loaded already.
        tokenize: its tokenizer, likewise.

    Raises:
        ValueError: no sentences.
        Missing: the weights or transformers are not on this machine.
    """
    import torch

    if not sentences:
        raise ValueError("no sentences to embed")
    model = model if model is not None else pretrained("all_minilm_l6_v2")
    tokenize = tokenize if tokenize is not None else tokenizer("all_minilm_l6_v2")
    batch = tokenize(list(sentences), padding=True, truncation=True, max_length=512, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
    return nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)


def _known(name: str) -> str:
    known = data.entry(name).name
    if known not in PRETRAINED:
        raise ValueError(f"{known!r} is data, not a network; the trained networks are {', '.join(PRETRAINED)}")
    return known


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise Missing(f"{name} needs transformers: pip install 'gramian[language]' ({error})") from error
    return transformers


@contextmanager
def _no_bars(transformers: Any) -> Iterator[None]:
    """Loading takes a second; a bar over it is noise in a report's log."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
