"""Explain a similarity: which words of two texts make a sentence encoder call them alike.

The data are pairs of sentences (``pairs``), or a table of yours (CSV, TSV) with the columns ``first`` and
``second``. The encoder is MiniLM (all-MiniLM-L6-v2), or a Hugging Face folder of yours: ``--set model=FOLDER``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import torch
from torch import Tensor, nn

from gramian.analysis.explain import bilrp
from gramian.analysis.explain.token_removal import removal_curve
from gramian.analysis.taps import Taps
from gramian.lab import Run
from gramian.models.opening import open_model
from gramian.tasks.support.contract import Method, Problem, name_of

TITLE = "Explain a similarity"
HEADLINE = "faithfulness"
METRICS = {"faithfulness": "higher", "hottest_gone": "lower", "coldest_gone": "higher"}
DEFAULT = "pairs"

SENTENCES = (
    ("The old bridge was closed after the flood.", "High water damaged the bridge, so nobody may cross it."),
    ("A dog chases a ball across the park.", "The puppy runs after a tennis ball on the lawn."),
    ("The train to the coast leaves at noon.", "At twelve o'clock a train departs for the sea."),
    ("He forgot his keys and waited outside.", "Without his keys he could not get into the house."),
    ("The company will hire two hundred engineers.", "Two hundred new engineers are wanted by the firm."),
    ("The soup needs more salt and pepper.", "Season the broth a little more."),
    ("Children painted the wall in bright colours.", "The wall was decorated by pupils."),
    ("Wind turbines now produce a third of the power.", "A third of our electricity comes from wind."),
)


@dataclass(frozen=True)
class Subject:
    """An encoder with the pairs that it compares.

    Attributes:
        ids: two tensors of token numbers a pair, the special tokens at both ends.
        similarity: the cosine of each pair.
    """

    model: nn.Module
    tokenizer: Any
    pairs: tuple[tuple[str, str], ...]
    ids: tuple[tuple[Tensor, Tensor], ...]
    similarity: Tensor

    def embed(self, ids: Tensor) -> Tensor:
        """The mean of the last states of one text."""
        return _embed(self.model, ids)

    def words(self, ids: Tensor) -> list[str]:
        """The tokens, as they are spelled."""
        return list(self.tokenizer.convert_ids_to_tokens(ids.tolist()))


Explain = Callable[[Subject], list[Tensor]]


class Explanation:
    """A way to explain, with the tables it made; saved as its name, the tables, and one picture a pair."""

    def __init__(self, method: str, subject: Subject | None = None, tables: list[Tensor] | None = None) -> None:
        self.method, self.subject, self.tables = method, subject, tables

    def save(self, path: Path) -> None:
        """Write the tables to ``path``, the method's name beside it, and ``pair<number>.png``."""
        from safetensors.torch import save_file

        if self.subject is None or self.tables is None:
            raise ValueError("nothing was explained yet: there is no table to save")
        save_file({f"pair{k}": t.contiguous() for k, t in enumerate(self.tables)}, str(path))
        Path(path).with_suffix(".method.json").write_text(json.dumps({"method": self.method}), encoding="utf-8")
        for number, table in enumerate(self.tables[:20]):
            _picture(self.subject, number, table, Path(path).parent / f"pair{number}.png")

    @classmethod
    def load(cls, path: Path) -> Explanation:
        """The way to explain that was written to `path`; it explains any pairs."""
        method = json.loads(Path(path).with_suffix(".method.json").read_text(encoding="utf-8"))["method"]
        if method not in {**METHODS, **BASELINES}:
            raise ValueError(f"{path} names the method {method!r}; there are {', '.join([*METHODS, *BASELINES])}")
        return cls(method)


def load(data: str, target: str | None = None, *, model: str = "all-minilm-l6-v2") -> Problem:
    """Read the pairs and compare them.

    Args:
        data: ``pairs``, or a table with the columns first and second.
        model: a bundled encoder, or a Hugging Face folder with an encoder and its tokenizer.

    Raises:
        ValueError: columns that are not there, an empty text, or a model that is no encoder of sentences.
    """
    if target is not None:
        raise ValueError(f"target={target!r}: the texts stand in the columns first and second")
    if data == DEFAULT:
        pairs, name = SENTENCES, data
    elif Path(data).is_file():
        # not through gramian.data.read: that is for tables to learn from, and wants several rows
        separator = "\t" if Path(data).suffix.lower() == ".tsv" else ","
        frame = pandas.read_csv(data, sep=separator, dtype=str, keep_default_na=False)
        missing = [c for c in ("first", "second") if c not in frame]
        if missing:
            raise ValueError(f"{data} has the columns {', '.join(map(str, frame.columns))}; {missing[0]!r} is missing")
        pairs, name = tuple(zip(frame["first"], frame["second"], strict=True)), Path(data).stem
    else:
        raise ValueError(f"{data}: give 'pairs', or a table with the columns first and second")
    if not pairs:
        raise ValueError(f"{data} holds no pair")
    empty = [i for i, pair in enumerate(pairs) if not all(text.strip() for text in pair)]
    if empty:
        raise ValueError(f"{data}: row {empty[0]} (counted from 0) has an empty text")
    opened = open_model(model)
    if opened.reads != "sentences" or opened.tokenizer is None:
        raise ValueError(f"{model} is no encoder of sentences (it reads {opened.reads}): MiniLM is one")
    read_text = opened.tokenizer
    ids = tuple(
        tuple(read_text(t, truncation=True, max_length=512, return_tensors="pt").input_ids[0] for t in pair)
        for pair in pairs
    )
    short = [i for i, pair in enumerate(ids) if min(map(len, pair)) < 4]
    if short:
        raise ValueError(f"{data}: row {short[0]} (counted from 0) has a text of one token: nothing can be taken away")
    encoder = opened.model.eval()
    cosines = torch.stack([torch.cosine_similarity(*(_embed(encoder, t) for t in pair), dim=0) for pair in ids])
    subject = Subject(encoder, read_text, tuple(pairs), ids, cosines)  # type: ignore[arg-type]
    facts = {"pairs": len(pairs), "tokens": sum(len(t) for pair in ids for t in pair),
             "mean cosine": float(subject.similarity.mean())}  # fmt: skip
    note = (
        "Tokens are taken away, one of each text at a step, until one is left: hottest_gone is the mean cosine while "
        "those of largest relevance go first, coldest_gone while those of smallest go first; faithfulness is the "
        "difference."
    )
    return Problem(name, subject, None, subject, None, note, facts)


def _embed(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids[None]).last_hidden_state[0].mean(0)


def evaluate(method: Method, problem: Problem, run: Run) -> tuple[dict[str, float], Explanation]:
    """Make the tables, then take tokens away by them."""
    subject: Subject = problem.train
    started = time.perf_counter()
    tables = method.build(run.seed)(subject)
    fit_s = time.perf_counter() - started
    started = time.perf_counter()
    hot, cold = _removed(subject, tables)
    name = name_of(method, {**METHODS, **BASELINES})
    return {
        "fit_s": fit_s,
        "predict_s": time.perf_counter() - started,
        "faithfulness": float((cold - hot).mean()),
        "hottest_gone": float(hot.mean()),
        "coldest_gone": float(cold.mean()),
    }, Explanation(name, subject, tables)


def _removed(subject: Subject, tables: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The mean cosine over the steps, one a pair: hottest first, coldest first."""
    found = []
    for hottest in (True, False):
        means = [
            removal_curve(subject.embed, *pair, table, hottest_first=hottest)[1:].mean()
            for pair, table in zip(subject.ids, tables, strict=True)
        ]
        found.append(torch.stack(means))
    return found[0], found[1]


def predict(model: Explanation, problem: Problem) -> pandas.DataFrame:
    """A row a pair: both texts, their cosine, the pair of tokens of largest relevance, and both means."""
    subject: Subject = problem.train
    if model.subject is not subject or model.tables is None:
        model.subject, model.tables = subject, {**METHODS, **BASELINES}[model.method].build(0)(subject)
    hot, cold = _removed(subject, model.tables)
    strongest = []
    for (one, two), table in zip(subject.ids, model.tables, strict=True):
        inner = table[1:-1, 1:-1]
        i, j = divmod(int(inner.argmax()), inner.shape[1])
        strongest.append((subject.words(one)[i + 1], subject.words(two)[j + 1]))
    return pandas.DataFrame(
        {
            "first": [a for a, _ in subject.pairs],
            "second": [b for _, b in subject.pairs],
            "cosine": subject.similarity.numpy(),
            "strongest in first": [a for a, _ in strongest],
            "strongest in second": [b for _, b in strongest],
            "hottest_gone": hot.numpy(),
            "coldest_gone": cold.numpy(),
        }
    )


def _picture(subject: Subject, number: int, table: Tensor, path: Path) -> None:
    """The two texts above each other; lines between the pairs of tokens, as thick as their relevance."""
    from matplotlib import pyplot

    from gramian.lab import figures

    first, second = (subject.words(ids)[1:-1] for ids in subject.ids[number])
    inner = table[1:-1, 1:-1].clamp(min=0)
    inner = inner / inner.max().clamp(min=torch.finfo(inner.dtype).tiny)
    with figures.style():
        figure, axes = pyplot.subplots(figsize=(max(6.0, 0.75 * max(len(first), len(second))), 2.6))
        places = [[(k + 0.5) / len(words) for k in range(len(words))] for words in (first, second)]
        for i, x in enumerate(places[0]):
            for j, y in enumerate(places[1]):
                strength = float(inner[i, j])
                if strength > 0.1:
                    axes.plot([x, y], [0.85, 0.15], color="C0", lw=5 * strength, alpha=0.15 + 0.7 * strength)
        for words, at, height, align in ((first, places[0], 0.9, "bottom"), (second, places[1], 0.1, "top")):
            for word, x in zip(words, at, strict=True):
                axes.text(x, height, word, ha="center", va=align, fontsize=10)
        axes.set(xlim=(0, 1), ylim=(-0.1, 1.1), title=f"cosine {float(subject.similarity[number]):.2f}")
        axes.axis("off")
        figure.savefig(path, dpi=120)
        pyplot.close(figure)


def _bilrp(method: str, module: str) -> Any:
    def build(seed: int) -> Explain:
        return lambda s: [
            bilrp.bilrp_text(s.model, one, two, method=method, embeddings=module).matrix()  # type: ignore[arg-type]
            for one, two in s.ids
        ]

    return build


def _last_states(seed: int) -> Explain:
    """The similarity of two means is the mean of all pairs' inner products: a table that costs nothing."""

    def states(model: nn.Module, ids: Tensor) -> Tensor:
        with torch.no_grad():
            return model(ids[None]).last_hidden_state[0]

    return lambda s: [states(s.model, one) @ states(s.model, two).mT / (len(one) * len(two)) for one, two in s.ids]


def _words(seed: int) -> Explain:
    """Inner products of the tokens' own embeddings, before any context."""

    def embedded(model: nn.Module, ids: Tensor) -> Tensor:
        kept: list[Tensor] = []
        with torch.no_grad(), Taps(model, {"embeddings.word_embeddings": lambda t: kept.append(t) or t}, mode="write"):
            model(ids[None])
        return nn.functional.normalize(kept[0][0], dim=-1)

    return lambda s: [embedded(s.model, one) @ embedded(s.model, two).mT for one, two in s.ids]


def _chance(seed: int) -> Explain:
    def explain(s: Subject) -> list[Tensor]:
        draw = torch.Generator().manual_seed(seed)
        return [torch.rand(len(one), len(two), generator=draw) for one, two in s.ids]

    return explain


METHODS = {
    "bilrp": Method(
        _bilrp("lrp", "embeddings.LayerNorm"), "relevance handed back through both texts", "bilrp_transformers"
    )
}
BASELINES = {
    "gradient-input": Method(_bilrp("gradient", "encoder.layer.0"), "input times gradient, behind the first norm"),
    "last-states": Method(_last_states, "inner products of the last states: an exact sum over pairs"),
    "word-embeddings": Method(_words, "cosines of the tokens' own embeddings"),
    "chance": Method(_chance, "a random table"),
}
