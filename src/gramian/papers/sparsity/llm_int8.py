"""LLM.int8(): int8 products with outlier features in floats (Dettmers et al., 2022)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gramian import models
from gramian.analysis import outliers, perplexity
from gramian.data import text
from gramian.data.sentences import sentences
from gramian.lab import Card, Run
from gramian.linalg.factor.quant import absmax
from gramian.nn.quantized.int8 import Int8Linear
from gramian.surgery.quantize import int8

CARD = Card(
    title="LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale",
    row=176,
    arxiv="2208.07339",
    year=2022,
    kind="method",
    idea="Rows of activations and weights are scaled to int8 by their largest magnitude and multiplied as integers. "
    "The few input features that reach magnitude 6 are cut out and multiplied as floats, so that they do not spoil "
    "the scales of the rest.",
    claim="Linear layers run on int8 weights, half the memory of 16 bits, without a loss of quality and without "
    "calibration, while more than 99% of the products stay in int8.",
    keywords=("quantization", "8 bit", "outlier features", "mixed precision", "inference memory", "vector-wise"),
    api=(
        "gramian.nn.quantized.int8.Int8Linear",
        "gramian.surgery.quantize.int8.to_int8",
        "gramian.linalg.factor.quant.absmax.mixed_matmul",
        "gramian.analysis.outliers.outlier_profile",
    ),
    use='handle = to_int8(model, "model.layers.*", threshold=6.0)\nlogits = model(ids).logits\nhandle.undo()',
    reach="models of 6.7B to 175B parameters, where outlier features emerge in all layers, are not available here",
    differs=(
        "Weights of outlier features are dequantized from int8 unless keep_float=True keeps the floats; with the "
        "dequantized ones the error of int8 weights remains on the largest activations.",
        "On processors without integer instructions for the purpose (VNNI) the exact integer product is computed in "
        "float32 slices: same result, no gain in speed.",
        "Found here: no feature of SmolLM2-135M meets the paper's criterion of an emergent feature (25% of the layers, "
        "6% of the positions), yet cutting out outliers still removes most of the loss.",
    ),
    needs=("language",),
    data=("all_minilm_l6_v2", "smollm2_135m"),
)

INFINITY = float("inf")


def products_are_exact(run: Run) -> None:
    """The integer product equals numpy's in 64-bit integers, for sizes around the slices' edges."""
    rng = run.rng()
    wrong, total = 0, 0
    for rows, inner, outputs in ((1, 1, 1), (7, 576, 19), (16, 1024, 8), (5, 1025, 9), (3, 4097, 11)):
        a, b = (rng.integers(-127, 128, (n, inner), dtype=np.int8) for n in (rows, outputs))
        exact = a.astype(np.int64) @ b.astype(np.int64).T
        for how in ("auto", "integer", "float"):
            found = absmax.int8_matmul(torch.from_numpy(a), torch.from_numpy(b), how).numpy()
            wrong += int((found != exact).sum())
            total += exact.size
    run.check(f"entries of int8 products that differ from 64-bit integers, of {total:,}", wrong, equals=0)


def outliers_spoil_scales(run: Run, trials: int = 3) -> None:
    """Three columns of sixty times the size: the error with and without cutting them out."""
    kept, mixed, pure, gains = [], [], [], []
    for trial in range(trials):
        generator = run.generator(trial)
        x, w = torch.randn(128, 512, generator=generator), torch.randn(256, 512, generator=generator)
        columns = torch.randperm(512, generator=generator)[:3]
        x[:, columns] *= 60
        codes, scales = absmax.quantize_rows(w)
        exact, ordinary = x @ w.T, torch.ones(512).index_fill(0, columns, 0) * x @ w.T
        outside = x[:, columns] @ absmax.dequantize_rows(codes, scales)[:, columns].T
        with_floats = absmax.mixed_matmul(x, codes, scales, 6.0, w)
        with_codes = absmax.mixed_matmul(x, codes, scales, 6.0)
        without = absmax.mixed_matmul(x, codes, scales, INFINITY)
        for errors, found in ((kept, with_floats), (mixed, with_codes), (pure, without)):
            errors.append(_relative(found, exact))
        gains.append(_relative(without - outside, ordinary) / _relative(with_codes - outside, ordinary))
    claim = "128 × 512 activations, three columns × 60: relative error"
    run.check(f"{claim}, outliers × float weights (largest of {trials})", max(kept), below=0.004)
    run.check(f"{claim}, outliers × dequantized weights (largest)", max(mixed), below=0.012)
    run.check(f"{claim}, everything in int8 (least)", min(pure), above=0.03)
    run.check("error of the ordinary features' part: int8 alone over decomposition (least ratio)", min(gains), above=10)
    run.text(
        "What three columns do",
        "A row's scale is its largest magnitude. Three columns sixty times the others leave the rest of the row a few "
        f"codes near zero: the product errs by {100 * min(pure):.1f}%. Multiplied apart, as floats, they leave the "
        f"others all 127 steps, and the error falls to {100 * max(mixed):.2f}%, or {100 * max(kept):.2f}% where their "
        "weights are floats as well.",
    )
    run.table(
        "planted outliers",
        [{"trial": i, "float weights": a, "dequantized weights": b, "all int8": c, "ratio on ordinary features": d}
         for i, (a, b, c, d) in enumerate(zip(kept, mixed, pure, gains, strict=True))],
        "relative error of the product; the ratio is that of the errors on the part of the ordinary features",
    )  # fmt: skip


def thresholds_at_their_ends(run: Run) -> None:
    """Threshold infinity is the pure vector-wise product; threshold 0 the float one."""
    layer = nn.Linear(96, 40)
    generator = run.generator(9)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(40, 96, generator=generator))
        layer.bias.zero_()
    x = 3 * torch.randn(32, 96, generator=generator)
    rows, sizes = absmax.quantize_rows(x)
    codes, scales = absmax.quantize_rows(layer.weight.detach())
    pure = (rows.long() @ codes.long().T).double() * sizes[:, None] * scales / 127**2
    with torch.no_grad():
        found = Int8Linear.from_float(layer, threshold=INFINITY)(x)
        floats = Int8Linear.from_float(layer, threshold=0, keep_float=True)(x)
        run.check("threshold ∞: relative distance from the integer formula", _relative(found, pure), below=1e-6)
        run.check("threshold 0, floats kept: relative distance from the float layer", _relative(floats, layer(x)),
                  below=1e-6)  # fmt: skip


def planted_outliers_are_found(run: Run) -> None:
    """Of twelve layers that read one stream, the features that are large often enough in enough layers are named."""
    generator = run.generator(6)
    x = torch.rand(4, 25, 32, generator=generator)
    x[..., 3] = 8.0  # everywhere
    x[:1, :5, 11] = -7.0  # in 5% of the positions: too few
    x[:2, :5, 20] = 7.0  # in 10%
    net = _Stream(masked=20, in_layers=2, layers=12)  # but in 2 layers of 12: too few
    profile = outliers.outlier_profile(net, [x[:2], x[2:]])
    run.check("planted emergent feature, found by the paper's criterion", profile.emergent().tolist(), equals=[3])
    run.check(
        "with a criterion of 5% of the positions and 10% of the layers",
        profile.emergent(layer_share=0.1, position_share=0.05).tolist(), equals=[3, 11, 20],
    )  # fmt: skip


class _Stream(nn.Module):
    """Linear layers that all read the same features, one of which is blanked in all but a few layers."""

    def __init__(self, masked: int, in_layers: int, layers: int, width: int = 32) -> None:
        super().__init__()
        self.masked, self.in_layers = masked, in_layers
        self.layers = nn.ModuleList(nn.Linear(width, 4) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        blank = x.index_fill(-1, torch.tensor([self.masked]), 0.0)
        outputs = [layer(x if i < self.in_layers else blank) for i, layer in enumerate(self.layers)]
        return torch.stack(outputs).sum(0)


def embeddings_stay(run: Run, count: int = 48) -> None:
    """MiniLM in int8: the sentences' embeddings against those of the float model."""
    model, tokenize = models.pretrained("all-minilm-l6-v2"), models.tokenizer("all-minilm-l6-v2")
    texts = sentences(count)
    before = models.embed_sentences(texts, model, tokenize)
    cosines = {}
    for threshold in (6.0, INFINITY):
        with int8.to_int8(model, "encoder.layer.*", threshold):
            after = models.embed_sentences(texts, model, tokenize)
        cosines[threshold] = float((before * after).sum(1).mean())
    claim = f"MiniLM, {count} sentences"
    run.check(f"{claim}: mean cosine of int8 to float embeddings", cosines[6.0], between=(0.999, 0.99999))
    run.check(f"{claim}: loss of cosine without decomposition over that with it",
              (1 - cosines[INFINITY]) / max(1 - cosines[6.0], 1e-12), above=1.5)  # fmt: skip
    run.log(cosine=cosines[6.0], cosine_without=cosines[INFINITY])


def files_keep_int8(run: Run) -> None:
    """A stored layer is int8 on disk and the same function when loaded."""
    from safetensors.torch import load_file

    layer = nn.Linear(384, 256)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(256, 384, generator=run.generator(4)))
    quantized = Int8Linear.from_float(layer)
    path = run.save("int8 layer", quantized)
    again = Int8Linear(384, 256)
    again.load_state_dict(load_file(path))
    x = torch.randn(4, 384, generator=run.generator(5))
    with torch.no_grad():
        difference = (again(x) - quantized(x)).abs().max() + ((quantized(x) - layer(x)).norm() > 0.02 * layer(x).norm())
    run.check("stored and loaded int8 layer: largest difference of its output", difference, equals=0.0)
    run.check("bytes of the file over the weight's elements", path.stat().st_size / layer.weight.numel(), below=1.03)


def language_model_in_int8(run: Run) -> None:
    """SmolLM2: perplexity, share of int8 products, bytes, and where its outliers are."""
    model, tokenize = models.pretrained("smollm2-135m"), models.tokenizer("smollm2-135m")
    ids = torch.tensor(tokenize(text.descriptions()).input_ids)
    pieces = {"tokens 0 … 512": ids[:512], "tokens 1024 … 1536": ids[1024:1536]}
    layers, rows = "model.layers.*", []
    for label, piece in run.progress(pieces.items(), "SmolLM2 in int8", total=len(pieces)):
        row = {"text": label, "float32": perplexity.perplexity(model, piece)}
        for name, threshold, keep in (
            ("int8", 6.0, False), ("int8, float outliers", 6.0, True), ("int8 without decomposition", INFINITY, False)
        ):  # fmt: skip
            with int8.to_int8(model, layers, threshold, keep) as handle:
                row[name] = perplexity.perplexity(model, piece)
                if name == "int8":
                    size = sum(m.nbytes for m in handle.replacements.values())
        rows.append(row)
    run.table("perplexity of SmolLM2-135M", rows, "float32 weights against int8 blocks")
    rises = {name: float(np.mean([r[name] / r["float32"] - 1 for r in rows])) for name in list(rows[0])[2:]}
    paper = "13B on C4: 12.45 in int8 and in 16 bits"
    first = rows[0]["int8"] / rows[0]["float32"] - 1
    run.check("SmolLM2, tokens 0 … 512: relative rise of perplexity in int8", first, between=(-0.01, 0.015),
              paper=paper)  # fmt: skip
    run.check(
        "SmolLM2, mean of two texts: rise of perplexity without decomposition above that with it",
        rises["int8 without decomposition"] - rises["int8"], above=0.005,
    )  # fmt: skip
    profile = outliers.outlier_profile(model, [ids[None, :512]], layers)
    sizes = {n: model.get_submodule(n).weight.numel() for n in profile.share}
    floats = sum(profile.outlier_share(n) * size for n, size in sizes.items()) / sum(sizes.values())
    run.check("SmolLM2: share of multiply-adds in int8", 1 - floats, above=0.99, paper="more than 99.9% at 175B")
    run.check("SmolLM2: bytes a block weight", size / sum(sizes.values()), between=(1.0, 1.01), paper="half of 16 bits")
    emergent = profile.emergent()
    run.text(
        "What the outliers are",
        f"{100 * floats:.2f}% of the multiply-adds of SmolLM2's blocks meet an input feature that reaches 6 somewhere "
        f"in 512 tokens. {len(emergent)} of 576 features of the residual stream are emergent in the paper's sense (at "
        f"least 25% of the layers and 6% of the positions), against the several that it reports from 6.7B parameters "
        "on. As a mean of two texts, in int8 without decomposition the perplexity rises by "
        f"{100 * rises['int8 without decomposition']:.2f}%, with it by {100 * rises['int8']:.2f}%, and with the "
        f"outliers' weights kept as floats by {100 * rises['int8, float outliers']:.2f}%.",
    )
    _picture(run, profile)


def _picture(run: Run, profile: outliers.OutlierProfile) -> None:
    from matplotlib import pyplot

    kinds = ("q_proj", "o_proj", "gate_proj", "down_proj")
    titles = ("attention in", "attention out", "MLP in", "MLP down")
    figure, axes = pyplot.subplots(1, 2, figsize=(8.4, 3.4))
    for i, (kind, title) in enumerate(zip(kinds, titles, strict=True)):
        names = [n for n in profile.share if n.endswith(kind)]
        axes[0].plot([100 * profile.outlier_share(n) for n in names], color=f"C{i}", label=title)
        axes[1].semilogy([float(profile.largest[n].max()) for n in names], color=f"C{i}")
    axes[1].axhline(profile.threshold, color="C5", lw=1, ls="--")
    axes[0].set(xlabel="layer", ylabel="outlier features, % of inputs", title="How many")
    axes[1].set(xlabel="layer", ylabel="largest magnitude", title="How large (dashed: the threshold)")
    axes[0].legend(fontsize=8)
    run.plot("outliers", figure, "Input features of SmolLM2's linear layers that reach magnitude 6 within 512 tokens.")


def error_by_threshold(run: Run) -> None:
    """How the error of a product with heavy-tailed columns depends on the threshold."""
    from matplotlib import pyplot

    generator = run.generator(7)
    sizes = torch.exp(1.2 * torch.randn(384, generator=generator))
    x = torch.randn(96, 384, generator=generator) * sizes
    w = torch.randn(192, 384, generator=generator)
    codes, scales = absmax.quantize_rows(w)
    thresholds = [float(t) for t in torch.logspace(0.3, 2.2, 16)]
    errors = [_relative(absmax.mixed_matmul(x, codes, scales, t, w), x @ w.T) for t in thresholds]
    shares = [float(absmax.outlier_features(x, t).double().mean()) for t in thresholds]
    figure, axes = pyplot.subplots()
    axes.loglog(thresholds, errors, color="C0", marker="o", ms=3)
    other = axes.twinx()
    other.semilogx(thresholds, shares, color="C1")
    other.grid(visible=False)
    axes.axvline(6.0, color="C2", ls="--", lw=1)
    axes.set(xlabel="threshold (dashed: 6)", ylabel="relative error (blue)", title="What the threshold trades")
    other.set_ylabel("share of features in floats (orange)")
    run.plot("threshold", figure, "Columns of log-normal size: a higher threshold keeps more in int8 and errs more.")
    run.check("error with nothing cut out over that with a threshold of 2", errors[-1] / errors[0], above=10)


def _relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def experiment(run: Run, *, count: int = 12) -> None:
    """Exactness of the integer path, what outliers do to it, and two trained models in int8.

    Args:
        count: how many sentences MiniLM embeds in the quick profile (the full one embeds 48).
    """
    products_are_exact(run)
    outliers_spoil_scales(run)
    thresholds_at_their_ends(run)
    error_by_threshold(run)
    files_keep_int8(run)
    planted_outliers_are_found(run)
    embeddings_stay(run, count if run.quick else max(count, 48))
    if not run.quick:
        language_model_in_int8(run)
