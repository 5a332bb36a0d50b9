"""CHESS: channel-wise thresholds that close a language model's gates (He et al., 2024)."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import models
from gramian.analysis.perplexity import perplexity
from gramian.data import text
from gramian.lab import Card, Run
from gramian.linalg import gathered
from gramian.models.language.tiny import TinyTransformer, byte_ids
from gramian.nn.sparse.gated import SparseGatedMLP
from gramian.surgery import activation_sparsity

CARD = Card(
    title="CHESS: Optimizing LLM Inference via Channel-Wise Thresholding and Selective Sparsification",
    row=216,
    arxiv="2409.01366",
    year=2024,
    kind="method",
    idea="A closed gate saves the rows of two matrices. What closing it costs depends on what it would have gated, so "
    "each channel gets a threshold of its own: one quantile of the layer's scores over the channel's mean input.",
    claim="At equal sparsity channel-wise thresholds lose less than one threshold a layer (CATS), and decoding runs up "
    "to 1.27 times faster.",
    keywords=("activation sparsity", "thresholds", "SwiGLU", "decoding speed", "CATS", "inference"),
    api=(
        "gramian.surgery.activation_sparsity.chess",
        "gramian.surgery.activation_sparsity.cats",
        "gramian.surgery.activation_sparsity.channel_thresholds",
        "gramian.nn.sparse.gated.SparseGatedMLP",
    ),
    use="handle = chess(model, [ids], sparsity=0.5)\nlogits = model(more_ids).logits\nhandle.undo()",
    reach="models of 7B and 8B parameters and their benchmarks; SmolLM2-135M and a text stand in; the speed is that "
    "of one feed-forward layer (see the benchmarks)",
    differs=(
        "Thresholds come from at most 1,024 tokens a layer, drawn uniformly from the calibration text.",
        "One kernel takes the up projection, the gate and the down projection of the open channels in one pass, "
        "where the paper has one for each product.",
        "A channel whose mean input is zero gets a large finite threshold instead of a division by zero.",
    ),
    needs=("language",),
    data=("smollm2_135m",),
)


def thresholds_close_what_they_should(run: Run) -> None:
    """Calibrated share, the special case of equal channels, and a loop over the scores."""
    generator = run.generator()
    up = torch.randn(200, 64, generator=generator) * torch.logspace(-1, 1, 64)
    gate = F.silu(2 * torch.randn(200, 64, generator=generator))
    rows = []
    for share in (0.3, 0.5, 0.7):
        t = activation_sparsity.channel_thresholds(up, gate, share)
        closed = float((gate.abs() < t).double().mean())
        mean = up.abs().mean(0)
        scores = sorted((float(mean[i] * gate[n, i].abs()), n, i) for n in range(200) for i in range(64))
        cut = {(n, i) for _, n, i in scores[: round(share * 200 * 64)]}
        agree = sum(((n, i) in cut) == bool(gate[n, i].abs() < t[i]) for n in range(200) for i in range(64))
        rows.append({"asked": share, "closed": closed, "as by sorting all scores": agree / (200 * 64)})
    run.table("calibration", rows, "share of gates closed on the tokens that set the thresholds")
    run.check(
        "share of closed gates, largest distance to the share asked for",
        max(abs(r["closed"] - r["asked"]) for r in rows), below=0.005,
    )  # fmt: skip
    run.check("gates that agree with sorting all scores, least share", min(r["as by sorting all scores"] for r in rows),
              above=0.9995)  # fmt: skip
    equal = torch.ones(200, 64)
    gap = activation_sparsity.channel_thresholds(equal, gate, 0.5) - activation_sparsity.layer_threshold(
        equal, gate, 0.5
    )
    run.check("channels of equal mean: largest distance to CATS' threshold", gap.abs().max(), below=1e-6)


def zero_sparsity_is_the_dense_model(run: Run) -> None:
    """With nothing closed the model computes what it did, for many tokens and for one, and comes back bit for bit."""
    torch.manual_seed(run.seed)
    model = TinyTransformer(48, 2, 4, activation="silu", gated=True, positions=64).eval()
    ids = byte_ids(text.descriptions())[:64]
    with torch.no_grad():
        before = model(ids[None])
        with activation_sparsity.chess(model, [ids], 0.0):
            many, one = model(ids[None]), model(ids[None, :1])
        run.check("k = 0: largest distance to the dense model's logits", (many - before).abs().max(), below=1e-5)
        run.check("the same for a single token", (one - before[:, :1]).abs().max(), below=1e-5)
        with activation_sparsity.chess(model, [ids], 0.6):
            many = model(ids[None, :1].expand(2, 1))
            one = model(ids[None, :1])
            shares = [m.density for m in model.modules() if isinstance(m, SparseGatedMLP)]
        run.check("k = 0.6: one token by the kernel against masking", (one - many[:1]).abs().max(), below=1e-5)
        run.check("k = 0.6: largest share of open gates of that token", max(shares), below=0.8)
        run.check("undone: entries of the logits that differ", int((model(ids[None]) != before).sum()), equals=0)


def kernels_skip_and_agree(run: Run) -> None:
    """The compiled products against dense ones with zeros in place."""
    worst, untouched = 0.0, 0.0
    for i, (width, neurons, outputs) in enumerate(((1, 1, 1), (7, 33, 5), (576, 1536, 576))):
        generator = run.generator(10 + i)
        x, up, down = (torch.randn(s, generator=generator) for s in ((width,), (neurons, width), (neurons, outputs)))
        gate = torch.randn(neurons, generator=generator) * (torch.rand(neurons, generator=generator) < 0.4)
        exact = ((up.double() @ x.double()) * gate.double()) @ down.double()
        scale = max(1.0, float(exact.abs().max()))
        worst = max(worst, float((gathered.gated_product(x, up, down, gate) - exact).abs().max()) / scale)
        exact = gate.double() @ down.double()
        scale = max(1.0, float(exact.abs().max()))
        worst = max(worst, float((gathered.summed_product(gate, down) - exact).abs().max()) / scale)
        poisoned = torch.where((gate == 0)[:, None], torch.nan, down)
        untouched += float(gathered.summed_product(gate, poisoned).isnan().sum())
        untouched += float(gathered.gated_product(x, up, poisoned, gate).isnan().sum())
    run.check("kernels against dense products in float64, largest relative distance", worst, below=1e-5)
    run.check("NaN that reached the result from rows that no open gate asks for", untouched, equals=0.0)


def channel_wise_beats_one_threshold(
    run: Run, tokens: int, shares: tuple[float, ...], bounds: dict[float, float]
) -> None:
    """SmolLM2's perplexity under CHESS and CATS at equal sparsity; calibrated on another stretch of the text."""
    model = models.pretrained("smollm2-135m")
    ids = torch.tensor(models.tokenizer("smollm2-135m")(text.descriptions(), verbose=False).input_ids)
    calibration, test = [ids[1024 : 1024 + tokens]], ids[:tokens]
    base = perplexity(model, test)
    rows: list[dict[str, Any]] = []
    for share in run.progress(shares, "perplexities"):
        row = {"gates closed": share}
        for name in ("chess", "cats"):
            with getattr(activation_sparsity, name)(model, calibration, share) as handle:
                row[name] = perplexity(model, test)
                closed = [1 - m.density for m in handle.replacements.values()]
            row[f"{name}: closed on this text"] = sum(closed) / len(closed)
        rows.append(row)
    run.table("SmolLM2-135M", rows, f"perplexity of {tokens} tokens; {base:.2f} with every gate as it is")
    for row in rows:
        k = row["gates closed"]
        run.check(f"k = {k}: CATS' perplexity over CHESS'", row["cats"] / row["chess"], above=1.01,
                  paper="less degradation than CATS on 7B and 8B models")  # fmt: skip
        if k in bounds:
            run.check(f"k = {k}: CHESS' perplexity over the dense model's", row["chess"] / base, below=bounds[k])
    if not run.quick:
        with activation_sparsity.chess(model, calibration, 0.5, attention=0.3):
            both = perplexity(model, test)
        run.text(
            "Attention as well",
            f"With half the gates closed and the smallest 30% of the inputs of the query and output projections "
            f"dropped, the perplexity is {both:.2f}; with gates alone {rows[1]['chess']:.2f}, untouched {base:.2f}.",
        )
    _picture(run, rows, base)


def _picture(run: Run, rows: list[dict[str, Any]], base: float) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    at = [0.0, *(r["gates closed"] for r in rows)]
    for name, label in (("chess", "channel-wise (CHESS)"), ("cats", "one threshold a layer (CATS)")):
        axes.semilogy(at, [base, *(r[name] for r in rows)], marker="o", label=label)
    axes.set(xlabel="gates closed", ylabel="perplexity")
    axes.legend()
    run.plot("perplexity", figure, "SmolLM2: what closing gates costs, by channel-wise thresholds and by one a layer.")


def decoding(run: Run, steps: int = 24) -> None:
    """Greedy decoding with and without; seconds are reported, never checked."""
    model = models.pretrained("smollm2-135m")
    tokens = models.tokenizer("smollm2-135m")
    prompt = torch.tensor([tokens(text.passages(1)[0]).input_ids[:48]])
    ids = torch.tensor(tokens(text.descriptions(), verbose=False).input_ids)
    rows = [{"model": "dense", **_generate(model, prompt, steps)}]
    for share in (0.5, 0.7):
        with activation_sparsity.chess(model, [ids[1024:1536]], share):
            rows.append({"model": f"k = {share}", **_generate(model, prompt, steps)})
    run.table("decoding", rows, "batch 1, whole model; feed-forward layers are about two thirds of its products")


def _generate(model: nn.Module, prompt: Tensor, steps: int) -> dict[str, Any]:
    with torch.no_grad():
        model.generate(prompt, max_new_tokens=2, do_sample=False)  # type: ignore[operator]
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=steps, min_new_tokens=steps, do_sample=False)  # type: ignore[operator]
    return {"tokens a second": steps / (time.perf_counter() - start)}


def experiment(run: Run, *, tokens: int = 96) -> None:
    """Measure thresholds against sorting, kernels against dense products, and perplexities against CATS.

    Args:
        tokens: how many tokens the quick profile calibrates and evaluates on (the full one takes 512).
    """
    thresholds_close_what_they_should(run)
    kernels_skip_and_agree(run)
    zero_sparsity_is_the_dense_model(run)
    if run.quick:
        channel_wise_beats_one_threshold(run, tokens, (0.5,), {0.5: 1.6})
        return
    channel_wise_beats_one_threshold(run, max(tokens, 512), (0.3, 0.5, 0.7), {0.3: 1.06, 0.5: 1.24, 0.7: 2.15})
    decoding(run)
