"""Your transformer is secretly linear: how far each block is an affine map of its input (Razzhigaev et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gramian import models
from gramian.analysis import perplexity
from gramian.analysis.geometry import linearity, linearity_profile
from gramian.analysis.reducers import Keep
from gramian.analysis.taps import Taps
from gramian.data import text
from gramian.lab import Card, Run
from gramian.linalg.manifold import orthogonal
from gramian.models.language import tiny
from gramian.objectives import layer_cosine
from gramian.optim.fit import fit
from gramian.surgery import linearize

CARD = Card(
    title="Your Transformer is Secretly Linear",
    row=140,
    arxiv="2405.12250",
    year=2024,
    kind="method",
    idea="Fit an affine map from each block's input states to its output states by least squares: the share of "
    "variance that it explains is the block's linearity. Blocks that score high can be replaced by their map.",
    claim="In decoders neighbouring layers are related linearly, with scores near 0.99, much less once the residual "
    "stream is taken off; replacing the most linear blocks by their maps costs little.",
    keywords=(
        "linearity score",
        "Procrustes similarity",
        "residual stream",
        "attention sink",
        "massive activations",
        "replace a block",
        "prune layers",
        "streaming covariance",
    ),
    api=(
        "gramian.analysis.geometry.linearity.linearity",
        "gramian.analysis.geometry.linearity_profile.linearity_profile",
        "gramian.surgery.linearize.replace_block",
        "gramian.objectives.layer_cosine.layer_cosine_loss",
    ),
    use='blocks = linearity_profile(model, batches, "layers.*", drop_first=(0, 4), max_bytes=70_000_000)\n'
    "best = max(blocks, key=lambda b: b.score)\n"
    "replace_block(model, best.name, best.fitted.weight, best.fitted.bias)",
    reach="GPT, LLaMA, OPT and BLOOM models, and pretraining on TinyStories; SmolLM2-135M stands in",
    differs=(
        "The first positions of a text get states some hundred times longer than the others'. They carry nearly all "
        "variance, so that the score near 1 of SmolLM2's upper blocks says how well a few sink tokens are mapped; "
        "without them the same blocks score 0.94 to 0.98. The profile gives both, which the paper does not.",
        "Scores are also given for text that the map was not fitted to: without sinks and without the residual "
        "stream a block of SmolLM2 is then mostly not linear.",
        "Found here: on byte-level models of five layers the cosine regularizer has no clear effect in 150 steps, and "
        "in longer trials made them more linear, not less, and worse at predicting; the table shows the short runs, "
        "nothing is gated on them.",
        "Layerwise distillation of the stand-in is not repeated: least squares is where it ends.",
    ),
    needs=("language",),
    data=("smollm2_135m",),
)

MODEL = "smollm2-135m"
Blocks = Sequence[linearity_profile.BlockLinearity]


def an_affine_map_scores_one(run: Run, features: int = 24, samples: int = 400) -> None:
    """Exact maps, and what must not change a score."""
    generator = run.generator()

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(samples, features) * torch.logspace(-2, 2, features, dtype=torch.float64)
    exact = x @ normal(features, features) + normal(features)
    run.check("an exact affine map: distance of its score to 1", 1 - linearity.linearity(x, exact), below=1e-10)
    y = exact.tanh() + 0.3 * normal(samples, features)
    score = linearity.linearity(x, y)
    moved = linearity.linearity(
        3 * x @ orthogonal.haar(features, generator, dtype=torch.float64) + 7,
        0.1 * y @ orthogonal.haar(features, generator, dtype=torch.float64) - 2,
    )
    run.check("a rotation, a shift and a scale on either side: change of the score", abs(score - moved), below=1e-9)
    ones = torch.cat((x, torch.ones(samples, 1, dtype=torch.float64)), 1)
    left = y - ones @ torch.linalg.lstsq(ones, y).solution
    direct = float(1 - left.square().sum() / (y - y.mean(0)).square().sum())
    run.check("against least squares on the rows themselves", abs(score - direct), below=1e-9)


def chance_grows_with_the_width(run: Run, features: int = 60, samples: int = 3000) -> None:
    """Independent features: the score is features / samples, and nothing on other samples."""
    generator = run.generator(1)
    x, y, more_x, more_y = (torch.randn(samples, features, generator=generator) for _ in range(4))
    expected = features / (samples - 1)
    score = linearity.linearity(x, y)
    run.check(f"independent features, score over features / samples ({expected:.3f})", score / expected,
              between=(0.8, 1.2))  # fmt: skip
    run.check("the same map on other samples", linearity.linearity(x, y, held_out=(more_x, more_y)), below=0.0)


class Tanh(nn.Module):
    """x + tanh(x W): a residual block that is not linear."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(width, width, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + (x @ self.weight).tanh()


class Chain(nn.Module):
    """Token numbers to vectors, then residual blocks."""

    def __init__(self, width: int, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(97, width, generator=generator, dtype=torch.float64))
        self.layers = nn.ModuleList(Tanh(width, generator) for _ in range(depth))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table[ids]
        x = x + 0.3 * x.cumsum(1)
        for layer in self.layers:
            x = layer(x)
        return x


def streaming_is_keeping(run: Run, width: int = 16, depth: int = 5) -> None:
    """A profile in pieces, from streamed moments, against scores of kept activations."""
    generator = run.generator(2)
    model = Chain(width, depth, generator).eval()
    ids = torch.randint(0, 97, (24, 20), generator=generator)
    names = [f"layers.{i}" for i in range(depth)]
    with Taps(model, {n: [Keep()] for n in names}) as after, Taps(model, {names[0]: [Keep()]}, side="in") as before:
        model(ids)
    kept = [k.rows.view(24, 20, width)[:, 3:] for k in (before[names[0]][0], *(after[n][0] for n in names))
            if isinstance(k, Keep)]  # fmt: skip
    cap = 8 * width * (width + 2) * 6
    found = linearity_profile.linearity_profile(model, ids.split(5), drop_first=3, max_bytes=cap)
    worst = max(
        abs(block.score - linearity.linearity(x, y))
        for block, (x, y) in zip(found, pairwise(kept), strict=True)
    )  # fmt: skip
    alone = max(
        abs((block.without_residual or 0.0) - linearity.linearity(x, y, residual=False))
        for block, (x, y) in zip(found, pairwise(kept), strict=True)
    )
    run.check("streamed in pieces against kept activations, largest difference", max(worst, alone), below=1e-8)
    run.check("largest memory of a piece over what was allowed", max(b.nbytes for b in found) / cap, below=1.0)


def _chunks(tokens: int, length: int, skip: int = 0) -> list[Tensor]:
    tokenizer = models.tokenizer(MODEL)
    ids: list[int] = []
    for passage in text.passages(40):
        ids += tokenizer(passage).input_ids
        if len(ids) >= skip + tokens:
            break
    return list(torch.tensor(ids[skip : skip + tokens]).view(-1, length).split(4))


def _sizes(model: nn.Module, batch: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Lengths of the states after blocks: of the longest in a text, and the median."""
    with torch.no_grad(), Taps(model, {n: [Keep()] for n in names}) as taps:
        model(batch)
    rows = []
    for name in names:
        kept = taps[name][0]
        assert isinstance(kept, Keep)
        lengths = kept.rows.norm(dim=1).view(batch.shape)
        rows.append({"name": name, "longest": float(lengths.max()), "median": float(lengths.median()),
                     "place of the longest": int(lengths.mean(0).argmax())})  # fmt: skip
    return rows


def sinks_carry_the_score(run: Run, tokens: int = 672, length: int = 84) -> None:
    """SmolLM2's first 13 blocks: what the last of them maps so well is the first token of every text."""
    model = models.pretrained(MODEL, num_hidden_layers=13).model
    assert isinstance(model, nn.Module)
    batches = _chunks(tokens, length)
    found = linearity_profile.linearity_profile(model, batches, ["layers.12"], drop_first=(0, 4))
    sizes = _sizes(model, batches[0][:1], ["layers.11"])[0]
    whole, rest = found
    run.check("SmolLM2, block 12: linearity", whole.score, above=0.997, paper="0.99 in larger decoders")
    run.check("its unexplained variance without each text's first 4 positions, over that with them",
              (1 - rest.score) / max(1 - whole.score, 1e-12), above=5)  # fmt: skip
    run.check("longest state over the median, before block 12", sizes["longest"] / sizes["median"], above=20)
    run.check("where in the text it stands", sizes["place of the longest"], equals=0)


def smollm2_is_nearly_linear(run: Run, tokens: int = 3072, other: int = 768, length: int = 256) -> None:
    """Every block of SmolLM2, with and without sinks, on its own and on other text; then blocks are replaced."""
    whole_model = models.pretrained(MODEL)
    model = whole_model.model
    assert isinstance(model, nn.Module)
    batches = _chunks(tokens, length)
    found = linearity_profile.linearity_profile(
        model, batches, drop_first=(0, 4), held_out=_chunks(other, length, skip=tokens)
    )
    depth = len(found) // 2
    whole, rest = found[:depth], found[depth:]
    sizes = _sizes(model, batches[0][:1], [b.name for b in whole])
    upper = range(12, 28)
    run.check("blocks 12 to 27, least linearity", min(whole[i].score for i in upper), above=0.997,
              paper="0.99 in larger decoders")  # fmt: skip
    run.check("without each text's first 4 positions, most of the same", max(rest[i].score for i in upper), below=0.99)
    run.check("… and on other text, least of blocks 3 to 27",
              min(b.held_out or 0.0 for b in rest[3:28]), between=(0.8, 0.97))  # fmt: skip
    alone = sum(b.without_residual or 0.0 for b in rest[3:28]) / 25
    run.check("without sinks and without the residual stream, mean of blocks 3 to 27", alone, between=(0.5, 0.85),
              paper="much lower once the residual is taken off")  # fmt: skip
    run.table("blocks of SmolLM2", [
        {"block": i, "with sinks": a.score, "without": b.score, "other text": b.held_out,
         "residual-free": b.without_residual, "residual-free, other text": b.held_out_without_residual,
         "longest state": s["longest"], "median state": s["median"]}
        for i, (a, b, s) in enumerate(zip(whole, rest, sizes, strict=True))
    ], "linearity of every block; the columns from 'without' to 'residual-free, other text' leave out each text's "
       "first 4 positions")  # fmt: skip
    kept = 4 * (depth + 1) * tokens * len(whole[0].fitted.bias)
    run.text(
        "What the score near 1 is",
        f"With all tokens blocks 12 to 27 score {min(whole[i].score for i in upper):.4f} or more. The first token's "
        f"state is up to {max(s['longest'] / s['median'] for s in sizes):.0f} times as long as the median one, so the "
        f"score is about that token. Without the first 4 positions of each text the same blocks score "
        f"{min(rest[i].score for i in upper):.3f} to {max(rest[i].score for i in upper):.3f}, on other text "
        f"{min(rest[i].held_out or 0 for i in upper):.3f} to {max(rest[i].held_out or 0 for i in upper):.3f}, and what "
        f"they add to the stream {alone:.2f} on average. In one pass both profiles hold "
        f"{whole[0].nbytes / 1e6:.0f} MB of statistics, whatever the number of tokens; the states of these {tokens} "
        f"tokens alone would be {kept / 1e6:.0f} MB. max_bytes= splits the pass.",
    )
    _picture(run, whole, rest, sizes)
    _replace(run, whole_model, whole, rest)


def _replace(
    run: Run,
    model: nn.Module,
    whole: Blocks,
    rest: Blocks,
) -> None:
    """Perplexity with the most linear block, or one drawn at random, replaced by its map."""
    ids = torch.tensor(models.tokenizer(MODEL)(text.descriptions()).input_ids)[:256]
    best = max(range(len(whole)), key=lambda i: whole[i].score)
    others = [i for i in torch.randperm(len(whole), generator=run.generator(3)).tolist() if i != best][:3]
    base = perplexity.perplexity(model, ids, 256)
    rows = [{"block": "none", "replaced by": "", "linearity": None, "perplexity": base}]
    for i, kind in [(best, "map"), *((i, "map") for i in others), (best, "map without sinks"), (best, "nothing")]:
        fitted = (rest if kind == "map without sinks" else whole)[i].fitted
        weight, bias = (None, None) if kind == "nothing" else (fitted.weight, fitted.bias)
        with linearize.replace_block(model, f"model.{whole[i].name}", weight, bias):
            value = perplexity.perplexity(model, ids, 256)
        rows.append({"block": str(i), "replaced by": kind, "linearity": whole[i].score, "perplexity": value})
    run.table("one block replaced", rows, "perplexity on 256 tokens of other text; the first block is the most linear")
    rise = [float(r["perplexity"] or 0.0) - base for r in rows[1:5]]
    run.check("perplexity's rise with the most linear block replaced, over the mean of 3 random blocks'",
              rise[0] / (sum(rise[1:]) / 3), below=0.9,
              paper="replacing the most linear blocks costs little")  # fmt: skip
    run.check("perplexity with the most linear block replaced, over that without", 1 + rise[0] / base, below=1.25)


def _train_tiny(strength: float, seed: int, steps: int, loss_of: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    width, depth, length = 64, 5, 64
    ids = tiny.byte_ids(" ".join(text.passages(40)))
    train, test = ids[:-5200], ids[-5200:]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tiny.TinyTransformer(width, depth, 4, positions=length)
    names = [f"layers.{i}" for i in range(depth)]

    def loss(run: nn.Module, window: Tensor) -> Tensor:
        states: list[Tensor] = []

        def see(x: Tensor) -> Tensor:
            states.append(x)
            return x

        with Taps(run, dict.fromkeys(names, see), mode="write"):
            logits = run(window[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        return loss + strength * loss_of(states) if strength else loss

    generator = torch.Generator().manual_seed(seed)
    fit(model, train.unfold(0, length + 1, 1), loss, steps=steps, batch_size=16, lr=3e-3, generator=generator,
        show_progress=False)  # fmt: skip
    found = linearity_profile.linearity_profile(model, test[:5120].view(-1, length).split(16), names)
    model.eval()
    with torch.no_grad():
        logits = model(test[:5120].view(-1, length))
        nats = float(nn.functional.cross_entropy(logits.flatten(0, 1), test[1:5121]))
    return {
        "strength": strength,
        "linearity": sum(b.score for b in found) / depth,
        "residual-free": sum(b.without_residual or 0.0 for b in found) / depth,
        "nats a byte, other text": nats,
    }


def the_cosine_regularizer(run: Run, strengths: tuple[float, ...] = (0.0, 0.3), steps: int = 150) -> None:
    """Two small language models, with and without the regularizer: reported."""
    from joblib import Parallel, delayed

    rows = Parallel(n_jobs=2)(
        delayed(_train_tiny)(s, run.seed, steps, layer_cosine.layer_cosine_loss) for s in strengths
    )
    run.table(
        "cosine regularizer",
        rows,
        "a byte-level model of 5 layers; means over its blocks. The paper, at its size, finds lower scores and better "
        "predictions with it; here there is no clear effect.",
    )


def the_regularizer_counts_angles(run: Run) -> None:
    """The regularizer against its definition."""
    generator = run.generator(4)
    states = [torch.randn(3, 5, 8, generator=generator, dtype=torch.float64) for _ in range(4)]
    value = layer_cosine.layer_cosine_loss(states)
    direct = sum(float((1 - (a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)).mean()) for a, b in pairwise(states))
    run.check("the cosine regularizer against its definition (difference)", abs(float(value) - direct), below=1e-12)


def _picture(
    run: Run,
    whole: Blocks,
    rest: Blocks,
    sizes: Sequence[dict[str, Any]],
) -> None:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot([b.score for b in whole], "o-", label="all tokens", markersize=3)
    left.plot([b.score for b in rest], "o-", label="without sinks", markersize=3)
    left.plot([b.held_out for b in rest], "o--", label="without sinks, other text", markersize=3)
    left.plot([b.without_residual for b in rest], "o-", label="… residual taken off", markersize=3)
    left.plot([b.held_out_without_residual for b in rest], "o--", label="… on other text", markersize=3)
    left.set(xlabel="block", ylabel="linearity", ylim=(0, 1.03), title="output as an affine map of the input")
    left.legend(fontsize=8, loc="lower center", ncols=2)
    right.semilogy([s["longest"] for s in sizes], "o-", label="longest state", markersize=3)
    right.semilogy([s["median"] for s in sizes], "o-", label="median state", markersize=3)
    right.set(xlabel="block", ylabel="length of the state after it", title="the first token grows into a sink")
    right.legend()
    run.plot("blocks", figure, "SmolLM2-135M: its upper blocks look linear because of a few very long states.")


def _small_picture(run: Run) -> None:
    """The score of a block that is linear only in part, by samples: what chance adds."""
    from matplotlib import pyplot

    generator = run.generator(5)
    features, strengths = 32, torch.linspace(0, 3, 13)
    rows = []
    for strength in strengths.tolist():
        x = torch.randn(1200, features, generator=generator)
        y = x + strength * (2 * x @ orthogonal.haar(features, generator)).tanh()
        held = slice(800, None)
        rows.append({
            "strength": strength, "score": linearity.linearity(x, y),
            "residual-free": linearity.linearity(x, y, residual=False) if strength else None,
            "80 samples": linearity.linearity(x[:80], y[:80]),
            "80 samples, others": linearity.linearity(x[:80], y[:80], held_out=(x[held], y[held])),
        })  # fmt: skip
    run.table("a tanh block", rows, "x + strength · tanh(2xR): linearity by the strength of what is not linear")
    figure, axis = pyplot.subplots(figsize=(5.6, 3.4))
    for key in ("score", "residual-free", "80 samples", "80 samples, others"):
        axis.plot(strengths, [r[key] for r in rows], "o-", label=key, markersize=3)
    axis.set(xlabel="strength of the tanh", ylabel="linearity")
    axis.legend()
    run.plot("a tanh block", figure, "x + strength · tanh(2xR), 32 features: with 80 samples the score says little.")
    run.text(
        "Reading the score",
        "The residual stream alone makes a block look linear, and so do few samples: the score of 80 samples of 32 "
        "features is far above that of 1,200, and the map fails on other samples.",
    )


def experiment(run: Run, *, tokens: int = 3072) -> None:
    """Scores against oracles, the part that sink tokens play in SmolLM2, and blocks replaced by their maps.

    Args:
        tokens: how many tokens the full profile fits SmolLM2's maps to.
    """
    an_affine_map_scores_one(run)
    chance_grows_with_the_width(run)
    streaming_is_keeping(run)
    the_regularizer_counts_angles(run)
    _small_picture(run)
    if run.quick:
        sinks_carry_the_score(run)
        return
    smollm2_is_nearly_linear(run, tokens)
    the_cosine_regularizer(run)
