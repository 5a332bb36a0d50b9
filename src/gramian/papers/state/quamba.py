"""Quamba: a trained Mamba in 8 bits, its scan's input cut and its output turned (Chiang et al., 2024)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from joblib import Parallel, delayed
from matplotlib import pyplot
from torch import Tensor

from gramian.analysis import perplexity
from gramian.lab import Card, Run
from gramian.linalg.factor.quant import observers, symmetric
from gramian.linalg.signal import paley
from gramian.models.language import byte_models
from gramian.models.language.mamba_lm import MambaLM
from gramian.nn.quantized import static
from gramian.surgery.quantize import quamba, rotation

CARD = Card(
    title="Quamba: A Post-Training Quantization Recipe for Selective State Space Models",
    row=54,
    arxiv="2410.13229",
    year=2024,
    kind="method",
    idea="All weights and activations of a Mamba become int8 with one fixed scale a tensor. What enters the scan is "
    "scaled by a percentile, so that a few large values are cut; what leaves it is turned by a Hadamard matrix, which "
    "spreads the outliers of a few channels over all, and the turn is undone in the next weight.",
    claim="A Mamba in static 8 bits, weights and activations, loses next to nothing; without the turn it loses more.",
    keywords=("quantization", "8 bit", "post-training", "Hadamard", "Paley", "percentile", "outliers", "Mamba", "W8A8"),
    api=(
        "gramian.surgery.quantize.quamba.quantize_mamba",
        "gramian.nn.quantized.mamba.QuantMamba",
        "gramian.nn.quantized.static.StaticLinear",
        "gramian.linalg.signal.paley.hadamard_transform",
        "gramian.linalg.factor.quant.observers.Percentile",
        "gramian.surgery.quantize.rotation.rotate_stream",
    ),
    use="small = quantize_mamba(model, calibration_ids, percentile=0.9995)\nlogits, states = small.read(ids)\n"
    "logits, states = small.step(next_ids, states)",
    reach="Mambas of 130M to 2.8B parameters with their zero-shot tasks, and the speed of int8 kernels on a GPU",
    differs=(
        "Codes are multiplied in int32 exactly, but the scan itself reads them as floats: on a CPU this saves memory "
        "between layers and no time.",
        "Embedding and head stay floats; they are no longer tied, because the norm's weight and the turn of the stream "
        "go into them.",
        "On the small models here cutting at a percentile neither helps nor hurts: the scan's inputs have no spikes "
        "yet. What it does for spikes is shown on planted ones.",
    ),
)

SIZES = (1536, 2560, 5120)


def hadamard_matrices_exist(run: Run) -> None:
    """Sizes of published models: H Hᵀ = d I in whole numbers, and the fast transform against the matrix."""
    wrong, gap = 0, 0.0
    generator = run.generator()
    for size in SIZES:
        matrix = paley.hadamard_of_size(size)
        rows = torch.arange(size)
        if run.quick and size > 4096:
            rows = torch.randperm(size, generator=generator)[:256]
        wanted = size * (rows[:, None] == torch.arange(size)).float()
        wrong += int((matrix[rows] @ matrix.T != wanted).sum()) + int((matrix.abs() != 1).sum())
        x = torch.randn(16, size, generator=generator)
        exact = (x.double() @ matrix.T.double() / size**0.5).float()
        gap = max(gap, float((paley.hadamard_transform(x) - exact).abs().max()))
    run.check("entries of H Hᵀ other than those of d I, for d = 1536, 2560, 5120", wrong, equals=0)
    run.check("fast transform − product with the matrix (largest gap)", gap, below=1e-5)


def turned_model_is_the_model(run: Run) -> None:
    """Norms folded and the stream turned, in floats: the same logits."""
    model = _small(run)
    for block in model.backbone.layers:
        torch.nn.init.uniform_(block.norm.weight, 0.5, 2.0, generator=run.generator(7))
    ids = torch.randint(256, (2, 40), generator=run.generator(1))
    turned = copy.deepcopy(model)
    rotation.fold_norms(turned)
    rotation.rotate_stream(turned)
    with torch.no_grad():
        gap = (turned(ids) - model(ids)).abs().max()
        moved = (turned.backbone.embeddings(ids) - model.backbone.embeddings(ids)).abs().max()
    run.check("logits of the turned float model − the model's (largest gap)", gap, below=1e-4)
    run.check("embeddings of the turned model − the model's (largest gap)", moved, above=1e-2)


def outliers_are_spread(run: Run) -> None:
    """Two of 1536 channels a hundred times as large: the error of an int8 projection, with and without the turn."""
    generator = run.generator(2)
    y = torch.randn(512, 1536, generator=generator)
    y[:, torch.randperm(1536, generator=generator)[:2]] *= 100
    weight = torch.randn(768, 1536, generator=generator) / 1536**0.5
    exact = y @ weight.T
    turned, turned_weight = paley.hadamard_transform(y), paley.hadamard_transform(weight)
    plain, quiet = _projected(y, weight, exact), _projected(turned, turned_weight, exact)
    run.check("error of the int8 projection, as it is / turned", plain / quiet, above=10)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(7.4, 3.2), width_ratios=(1, 1.6))
    left.imshow(paley.hadamard_of_size(48), cmap="viridis")
    left.set(title="H of size 12 · 4", xticks=[], yticks=[])
    left.grid(False)
    right.semilogy(y.abs().amax(0), lw=0.7, label="as it is")
    right.semilogy(turned.abs().amax(0), lw=0.7, label="turned")
    right.set(xlabel="channel", ylabel="largest magnitude")
    right.legend()
    run.plot(
        "outliers", figure, "Two outlying channels set the scale of all 1536 (their peaks); turned, none stands out."
    )


def spikes_are_cut(run: Run) -> None:
    """Three values of seventy times the size among 800,000: the error of all others."""
    generator = run.generator(3)
    x = torch.randn(1, 800_000, generator=generator)
    places = torch.randperm(800_000, generator=generator)[:3]
    x[0, places] = 70 * torch.randn(3, generator=generator).sign()
    errors = []
    for observer in (observers.LargestMagnitude(), observers.Percentile(0.9995)):
        observer.update(x)
        scale = observer.scale()
        gaps = symmetric.to_codes(x, scale) * scale - x
        gaps[0, places] = 0
        errors.append(float(gaps.square().mean().sqrt()))
    run.check("error off the spikes, scaled by the largest / by the percentile", errors[0] / errors[1], above=8)


def integers_are_what_they_simulate(run: Run) -> None:
    """Products of codes against floats on the grids, and steps with kept states against reading at once."""
    model = _small(run)
    generator = run.generator(4)
    ids = torch.randint(256, (2, 48), generator=generator)
    small = quamba.quantize_mamba(model, torch.randint(256, (8, 64), generator=generator))
    rows = []
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        small = small.to(dtype)
        with torch.no_grad():
            whole = small(ids)
            static.simulate(small)
            simulated = small(ids)
            static.simulate(small, False)
            pieces, states = small.read(ids[:, :20])
            steps = [pieces[:, -1]]
            for i in range(20, 47):
                logits, states = small.step(ids[:, i], states)
                steps.append(logits)
        gaps = simulated - whole, torch.stack(steps, 1) - whole[:, 19:47]
        simulation, stepping = (float(gap.abs().max() / whole.abs().max()) for gap in gaps)
        rows.append({"scales and state": name, "integers − simulated": simulation, "steps − at once": stepping})
        if dtype is torch.float64:
            run.check("integer path − simulated path, over the largest logit", simulation, below=1e-4)
            run.check("steps after a piece − reading at once, over the largest logit", stepping, below=1e-4)
    with torch.no_grad():
        wanted = model(ids)
        off = (small(ids) - wanted).norm() / wanted.norm()
    kinds = {layer.codes.dtype for layer in small.modules() if isinstance(layer, static.StaticLinear)}
    run.check("logits of the int8 model − the float model's, relative in norm", off, between=(1e-4, 0.1))
    run.check("projections of two blocks that hold int8", (len(kinds) == 1 and kinds.pop() is torch.int8), equals=True)
    run.table("paths", rows, "In float32 a sum may fall on the other side of a rounding step; in float64 it does not.")


VARIANTS = {
    "Quamba": (0.9995, True),
    "turned, largest magnitude": (None, True),
    "percentile alone": (0.9995, False),
    "largest magnitude": (None, False),
}


def perplexity_stays(run: Run, *, steps: int = 150, channels: int = 64, seeds: int = 3) -> None:
    """Small Mambas that read bytes, trained here: how much their perplexity rises in 8 bits."""
    jobs = (delayed(_rises)(run.seed + 50 + i, steps, channels, quamba.quantize_mamba) for i in range(seeds))
    found = Parallel(n_jobs=min(2, seeds))(jobs)
    rows = [{"seed": i, "float": base, **{k: f"{100 * v:+.2f}%" for k, v in rises.items()}} for i, (base, rises) in
            enumerate(found)]  # fmt: skip
    means = {name: sum(rises[name] for _, rises in found) / seeds for name in VARIANTS}
    run.table("perplexity", rows, "Perplexity of the float model on held-out text, and its rise in int8.")
    worst = max(rises["Quamba"] for _, rises in found)
    run.check("rise of the perplexity, largest of the seeds", worst, below=0.02,
              paper="−0.9% accuracy at 2.8B; 1.72 times as fast on an Orin: neither can be measured here")  # fmt: skip
    margin = means["largest magnitude"] - means["Quamba"]
    run.check("rise without turn and percentile − rise with both, mean of the seeds", margin, above=0.0)
    figure, axes = pyplot.subplots()
    for place, name in enumerate(VARIANTS):
        axes.bar(place, 100 * means[name], 0.6)
        axes.plot([place] * seeds, [100 * rises[name] for _, rises in found], "o", ms=4, color="C7")
    axes.set_xticks(range(len(VARIANTS)), ["Quamba", "turned,\nlargest", "percentile\nalone", "largest\nmagnitude"])
    axes.set(ylabel="rise of the perplexity (%)")
    run.plot("perplexity", figure, "Means and single models: the turn takes away most of what 8 bits cost.")
    run.text(
        "What it shows",
        f"Static int8 raises the perplexity by {100 * means['largest magnitude']:.2f}% on average when scales are "
        f"largest magnitudes, and by {100 * means['Quamba']:.2f}% with the turn and the percentile. Models as small as "
        "these have no spikes in the scan's input, so the percentile makes no difference; the turn does.",
    )


def _small(run: Run) -> MambaLM:
    """An untrained model whose widths, 24 and 48, are no powers of two."""
    return MambaLM(256, 24, 2, state_size=8, generator=run.generator(6)).eval()


def _projected(y: Tensor, weight: Tensor, exact: Tensor) -> float:
    """The root mean square error of y Wᵀ with both in int8."""
    point = static.QuantPoint(observers.LargestMagnitude())
    point.calibrating = True
    point(y)
    point.freeze()
    codes, scales = symmetric.quantize_matrix(weight)
    layer = static.StaticLinear(codes, scales, input_scale=point.scale)
    return float((layer(point(y)) - exact).square().mean().sqrt())


def _rises(seed: int, steps: int, channels: int, quantize: Callable[..., MambaLM]) -> tuple[float, dict[str, float]]:
    """Perplexity of a trained model, and how much it rises under each variant."""
    torch.set_num_threads(1)
    text, held_out = byte_models.corpus()
    model = byte_models.build("mamba", seed, channels).eval()
    byte_models.train(model, seed, steps)
    base = perplexity.perplexity(model.eval(), held_out, 256)
    calibration = text[: 32 * 128].view(32, 128)
    rises = {}
    for name, (percentile, hadamard) in VARIANTS.items():
        small = quantize(model, calibration, percentile, hadamard)
        rises[name] = perplexity.perplexity(small, held_out, 256) / base - 1
    return base, rises


def experiment(run: Run, *, steps: int = 150) -> None:
    """The matrices, the turn, outliers and spikes, the integer path, and the perplexity of small models in 8 bits.

    Args:
        steps: how many steps the models of the full profile are trained.
    """
    hadamard_matrices_exist(run)
    turned_model_is_the_model(run)
    outliers_are_spread(run)
    spikes_are_cut(run)
    integers_are_what_they_simulate(run)
    if not run.quick:
        perplexity_stays(run, steps=steps)
