"""A small task for adapters of MiniLM: which of four texts a few words come from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian import models, optim
from gramian.data import text
from gramian.surgery.adapters.apply import adapters

__all__ = ["QUERIES_AND_VALUES", "FineTuned", "SentenceClassifier", "fine_tune", "pieces"]

QUERIES_AND_VALUES = ("*.attention.self.query", "*.attention.self.value")


class SentenceClassifier(nn.Module):
    """MiniLM, mean over the tokens, a linear head."""

    def __init__(self, body: nn.Module, classes: int, seed: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(384, classes)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=0.05, generator=torch.Generator().manual_seed(seed))

    def forward(self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch n"]:
        states = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].float()
        return self.head((states * weights).sum(1) / weights.sum(1))


@dataclass(frozen=True)
class FineTuned:
    """What a fine-tuning left behind.

    Attributes:
        accuracy: share of right answers on the held-out pieces.
        loss: mean of the last round.
        trained: how many numbers were trained besides the head's.
        factors: the adapters' own parameters, by dotted name.
    """

    accuracy: float
    loss: float
    trained: int
    factors: dict[str, Tensor]


def pieces(words: int = 8) -> tuple[list[str], list[int]]:
    """The four descriptions of `gramian.data.text` in pieces of `words` words, and which each comes from, 0 … 3.

    Raises:
        ValueError: fewer than one word.
    """
    if words < 1:
        raise ValueError(f"words={words}: a piece has at least one word")
    found, labels = [], []
    parts = [p for p in re.split(r"(?m)^(?=\.\. _\w+_dataset:)", text.descriptions()) if p.strip()]
    for label, part in enumerate(parts):
        held = part.split()
        for start in range(0, len(held) - words + 1, words):
            found.append(" ".join(held[start : start + words]))
            labels.append(label)
    return found, labels


def fine_tune(attach: Callable[[nn.Module, int], Any] | None, lr: float, seed: int, steps: int = 15) -> FineTuned:
    """Fine-tune MiniLM, on one thread, on three fifths of the pieces: its head, and what `attach` leaves trainable.

    Args:
        attach: given the classifier and the seed; it must keep ``head`` trainable. None trains the head alone.
        seed: of the split, the head's start and the order of the pieces.
    """
    torch.set_num_threads(1)
    found, labels = pieces()
    batch = models.tokenizer("all-minilm-l6-v2")(found, padding="max_length", truncation=True, max_length=12)
    ids, mask = torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"])
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    train, test = order[: len(ids) * 3 // 5], order[len(ids) * 3 // 5 :]
    answers = torch.tensor(labels)
    net = SentenceClassifier(models.pretrained("all-minilm-l6-v2"), 4, seed)
    net.body.requires_grad_(False)
    if attach is not None:
        attach(net, seed)
    head = sum(p.numel() for p in net.head.parameters())

    def loss(module: nn.Module, i: Tensor, m: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(module.eval()(i, m), y)  # few steps: without the body's dropout they are less noisy

    history = optim.fit(
        net, [ids[train], mask[train], answers[train]], loss, steps=steps, batch_size=16, lr=lr,
        generator=torch.Generator().manual_seed(seed), show_progress=False,
    )  # fmt: skip
    net.eval()
    with torch.no_grad():
        right = float((net(ids[test], mask[test]).argmax(-1) == answers[test]).float().mean())
    return FineTuned(
        right,
        history.rows[-1]["loss"],
        sum(p.numel() for p in net.parameters() if p.requires_grad) - head,
        {f"{n}.{k}": p.detach().clone() for n, a in adapters(net).items() for k, p in a.own().items()},
    )
