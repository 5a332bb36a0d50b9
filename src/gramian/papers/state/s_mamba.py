"""S-Mamba: variates as tokens, mixed by Mamba in both directions (Wang et al., 2024)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from matplotlib import pyplot
from torch import nn

from gramian.data import series
from gramian.data.synthetic import var
from gramian.lab import Card, Run
from gramian.models.series import dlinear, naive, ridge, s_mamba, training

CARD = Card(
    title="Is Mamba Effective for Time Series Forecasting?",
    row=127,
    year=2024,
    arxiv="2403.11144",
    kind="architecture",
    idea="Each variate's whole past becomes one token. A Mamba that reads the tokens forwards and a second one that "
    "reads them backwards let the variates exchange, at a cost linear in their number; a feed-forward layer works on "
    "each token's own past.",
    claim="Mamba over variates forecasts better than transformers at less memory and time.",
    keywords=("time series forecasting", "multivariate", "Mamba", "inverted embedding", "S-Mamba", "S-D-Mamba"),
    api=(
        "gramian.models.series.s_mamba.SMamba",
        "gramian.models.series.s_mamba.VariateMixing",
        "gramian.nn.series.revin.ReversibleNorm",
    ),
    use="model = SMamba(look_back=96, horizon=96, channels=256, state_size=2)\ny = model(x)  # (batch, 96, variates)",
    reach="electricity (321 variates) and traffic (862) need a GPU; a ring of 12 variates whose best forecast is known "
    "stands in",
    differs=(
        "The released layers also build an attention and two Mambas of width 11 that nothing uses; they are left out.",
    ),
    needs=("language",),
    data=("macrodata", "elnino"),
)


def _model(run: Run) -> s_mamba.SMamba:
    return s_mamba.SMamba(24, 6, channels=32, state_size=4, generator=run.generator(1)).eval()


def scales_come_back(run: Run) -> None:
    """Scaling and shifting each variate scales and shifts its forecast: the normalization is undone."""
    model = _model(run)
    generator = run.generator(2)
    x = torch.randn(8, 24, 5, generator=generator)
    gain = torch.empty(8, 1, 5).uniform_(0.5, 20, generator=generator)
    shift = torch.empty(8, 1, 5).uniform_(-30, 30, generator=generator)
    with torch.no_grad():
        plain, moved = model(x), model(gain * x + shift)
        gap = ((moved - shift) / gain - plain).abs().max() / plain.abs().max()
        other = model(x.roll(1, 1))
    run.check("f(ax + b) = a f(x) + b for each variate (largest gap, relative)", gap, below=1e-4)
    run.check("and the past matters: mean change of the forecast when it is shifted by a step",
              (other - plain).abs().mean(), above=1e-3)  # fmt: skip


def directions_are_mirror_images(run: Run) -> None:
    """Exchange the two Mambas and reverse the variates: the output is reversed. Each Mamba is the published one."""
    layer = s_mamba.VariateMixing(32, 4, 32, generator=run.generator(3)).eval()
    mirror = s_mamba.VariateMixing(32, 4, 32).eval()
    state = layer.state_dict()
    names = {"onwards": "backwards", "backwards": "onwards"}
    mirror.load_state_dict({".".join([names.get(k.split(".")[0], k.split(".")[0]), *k.split(".")[1:]]): v
                            for k, v in state.items()})  # fmt: skip
    x = torch.randn(4, 9, 32, generator=run.generator(4))
    with torch.no_grad():
        y = layer(x)
        gap = (mirror(x.flip(1)).flip(1) - y).abs().max()
        # how far the first token is seen, and the last
        first, last = x.clone(), x.clone()
        first[:, 0] += 1
        last[:, -1] += 1
        reach = min(float((layer(first) - y)[:, -1].abs().max()), float((layer(last) - y)[:, 0].abs().max()))
    run.check("Mambas exchanged and variates reversed: gap to the reversed output", gap, below=1e-5)
    run.check("the first variate reaches the last one and back (smaller of the two changes)", reach, above=1e-5)

    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(hidden_size=32, state_size=4, expand=1, conv_kernel=2, num_hidden_layers=1, vocab_size=8)
    theirs = MambaMixer(config, 0).eval()
    theirs.load_state_dict(layer.onwards.state_dict())
    with torch.no_grad():
        gap = (theirs(x) - layer.onwards(x)[0]).abs().max()
    run.check("the Mamba inside against transformers' mixer with the same weights", gap, below=1e-5)


def calendar_is_read_not_forecast(run: Run) -> None:
    """Features of the time enter as tokens of their own; the output has the variates only."""
    model = _model(run)
    generator = run.generator(5)
    x, marks = torch.randn(4, 24, 5, generator=generator), torch.rand(4, 24, 4, generator=generator) - 0.5
    with torch.no_grad():
        without, with_marks, moved = model(x), model(x, marks), model(x, marks.flip(1))
    run.check("forecast variates with four calendar tokens", with_marks.shape[-1], equals=5)
    run.check("calendar tokens change the forecast (mean change)", (with_marks - without).abs().mean(), above=1e-4)
    run.check(
        "their values matter (mean change when they run backwards)", (moved - with_marks).abs().mean(), above=1e-5
    )


class SelfAttention(nn.MultiheadAttention):
    """Softmax attention of a sequence to itself, with its matrix of weights."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x, x, x)[0]


def _bytes_kept(layer: nn.Module, x: torch.Tensor) -> int:
    """Bytes of the tensors that the forward pass keeps for the backward pass, each storage once."""
    kept = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        y = layer(x)
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    del y
    return sum(size for where, (_, size) in kept.items() if where not in own)


def memory_is_linear_in_the_variates(run: Run) -> None:
    """Twice the variates keep twice the bytes; self-attention of the same width keeps more than that."""
    mixing = s_mamba.VariateMixing(32, 4, 32, generator=run.generator(6))
    attention = SelfAttention(32, 4)
    counts = (64, 128, 256, 512)
    kept = {"S-Mamba": [], "attention": []}
    for variates in counts:
        x = torch.randn(2, variates, 32, generator=run.generator(7))
        kept["S-Mamba"].append(_bytes_kept(mixing, x))
        kept["attention"].append(_bytes_kept(attention, x))
    growth = [b / a for a, b in zip(kept["S-Mamba"], kept["S-Mamba"][1:], strict=False)]
    run.check("bytes kept for the backward pass per doubling of the variates (most)", max(growth), below=2.1,
              paper="near-linear cost")  # fmt: skip
    run.check("and least: every token keeps its own", min(growth), above=1.8)
    figure, axes = pyplot.subplots()
    for name, values in kept.items():
        axes.loglog(counts, np.array(values) / 1024, marker="o", label=name)
    axes.set(xlabel="variates", ylabel="KiB kept for the backward pass", title="One layer of width 32, two windows")
    axes.legend()
    run.plot("memory", figure, "S-Mamba's memory grows linearly with the variates, attention's with their square.")
    run.table("memory", [{"variates": v, "S-Mamba KiB": a / 1024, "attention KiB": b / 1024}
                         for v, a, b in zip(counts, *kept.values(), strict=True)],
              "Kept for the backward pass by one layer of width 32, two windows.")  # fmt: skip


def _built(kind: str, model: type[nn.Module], look_back: int, horizon: int, variates: int, period: int, seed: int):
    """The forecasters that are compared, by name."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "S-Mamba":
        return model(look_back, horizon, 48, 8, dropout=0.0, generator=generator)
    if kind == "DLinear":
        return dlinear.DLinear(look_back, horizon, generator=generator)
    if kind == "ridge, all variates":
        return ridge.Ridge(look_back, horizon, variates)
    if kind == "ridge, each variate alone":
        return ridge.Ridge(look_back, horizon)
    return naive.SeasonalNaive(horizon, period)


def _measure(kind: str, trial: training.Trial, variates: int, period: int, seed: int, **settings) -> training.Errors:
    """Test errors of one forecaster, trained where it has to be."""
    look_back, horizon = trial.test[0].shape[1], trial.test[1].shape[1]
    build = partial(_built, kind, s_mamba.SMamba, look_back, horizon, variates, period)
    return training.trained_errors(build, trial, seed, **settings)


def neighbours_are_used(run: Run, epochs: int = 6) -> None:
    """On a ring of 12 variates S-Mamba comes near the best forecast, which no forecast of each alone can."""
    process, look_back, horizon = var.neighbours(12, 0.2, 0.7, -0.1), 32, 4
    trial = training.prepare(process.sample(6500, run.rng(8)), look_back, horizon, (0.75, 0.05, 0.2))
    best = process.bayes_mse(horizon, trial.std.numpy())
    settings = {"epochs": epochs, "batch_size": 64, "schedule": "cosine", "clip": 1.0, "log": run.log}
    names = ("S-Mamba", "ridge, all variates", "ridge, each variate alone", "DLinear", "last value")
    ratios = {}
    for name in names:
        rate = 1e-3 if name == "DLinear" else 3e-3
        errors = _measure(name, trial, 12, 1, run.seed, lr=rate, **settings)
        ratios[name] = errors.mse / best
    run.check("ring of 12 variates, 4 steps ahead: MSE over that of the best forecast", ratios["S-Mamba"], below=1.2,
              paper="a simulation of ours; the exchange between variates is what the paper is about")  # fmt: skip
    alone = min(ratios["ridge, each variate alone"], ratios["DLinear"])
    run.check("the same of the best linear map of each variate alone", alone, above=1.35)
    run.table("ring", [{"forecaster": name, "MSE / best": ratio} for name, ratio in ratios.items()])
    figure, axes = pyplot.subplots()
    axes.barh(list(ratios), list(ratios.values()), color=[f"C{i}" for i in range(len(ratios))])
    axes.axvline(1, color="0.4", ls="--", lw=1)
    axes.text(1.01, len(ratios) - 0.45, "best possible", fontsize=9, color="0.4")
    axes.invert_yaxis()
    axes.set(xlabel="MSE / that of the best forecast", title="Ring of 12 variates, 4 steps ahead")
    run.plot("ring", figure, "What reads the other variates comes near the best forecast; what does not, cannot.")


def small_real_series(run: Run, seeds: int = 3) -> None:
    """Growth of the American economy, and the sea's temperature: beside DLinear and the season before."""
    names = ["S-Mamba", "DLinear", "seasonal naive"]
    settings = {"epochs": 30, "patience": 6, "batch_size": 32, "lr": 1e-3}
    means = {}
    for series_name, look_back, horizon in (("macrodata", 16, 4), ("elnino", 48, 12)):
        named = series.named_series(series_name)
        trial = training.prepare(named.values, look_back, horizon, named.parts)
        for name in names:
            found = [_measure(name, trial, named.values.shape[1], named.period, seed, **settings).mse
                     for seed in range(run.seed, run.seed + (1 if name == "seasonal naive" else seeds))]  # fmt: skip
            means[series_name, name] = float(np.mean(found))
    wins = sum(means[s, "S-Mamba"] < min(means[s, n] for n in names[1:]) for s in ("macrodata", "elnino"))
    run.check("series of 2 on which S-Mamba beats both DLinear and the season before (means of seeds)", wins, above=1,
              paper="best or second best on most of 13 sets, at full size")  # fmt: skip
    run.table("real series", [{"series": s, "forecaster": n, "MSE (standardized)": v} for (s, n), v in means.items()],
              f"Means of {seeds} seeds.")  # fmt: skip


def experiment(run: Run, *, seeds: int = 3, epochs: int = 6) -> None:
    """What the architecture promises exactly, and forecasts where the variates must be read together.

    Args:
        seeds: trainings of each forecaster on each real series.
        epochs: passes over the ring's training windows.
    """
    scales_come_back(run)
    directions_are_mirror_images(run)
    calendar_is_read_not_forecast(run)
    memory_is_linear_in_the_variates(run)
    if not run.quick:
        neighbours_are_used(run, epochs)
        small_real_series(run, seeds)
    run.text(
        "what it shows",
        "Normalization, direction and calendar behave exactly as designed, and memory grows linearly with the "
        "variates. Where what a variate does next lies in another's past, the two Mambas find it: the full profile "
        "measures how near the forecasts come to the best that is possible.",
    )
