"""Asymmetry in low-rank adapters: freezing A costs less than freezing B (Zhu et al., 2024)."""

from __future__ import annotations

import copy
import tempfile
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from gramian.analysis import adapter_asymmetry as asymmetry
from gramian.lab import Card, Run
from gramian.surgery.adapters import apply, lora, peft_files, transfer
from gramian.surgery.adapters import sentence_task as task

CARD = Card(
    title="Asymmetry in Low-Rank Adapters of Foundation Models",
    row=183,
    arxiv="2402.16842",
    year=2024,
    kind="theory",
    idea="In an update B A the factor A reads the input and B writes the output. A random A loses only what the "
    "inputs do not carry, a random B loses a fixed share of the answer; so freeze a random orthonormal A and train "
    "B alone, with half the parameters.",
    claim="Tuning B with a random A frozen does better than tuning A with B frozen, and about as well as both.",
    keywords=("LoRA", "freeze A", "generalization bound", "orthonormal", "half the parameters", "fine-tuning"),
    api=(
        "gramian.surgery.adapters.lora.LoRALinear",
        "gramian.analysis.adapter_asymmetry.excess_freeze_A",
        "gramian.analysis.adapter_asymmetry.generalization_bound",
    ),
    use='attach_lora(model, ["*.query", "*.value"], rank=8, train="B", init="orthonormal")',
    reach="RoBERTa, BART, LLaMA-2 and ViT fine-tuning are not run here; a regression in closed form, MiniLM and digits "
    "stand in",
    differs=(
        "The paper compares the means over random factors; the single draw can go either way, and the report says how "
        "often it does.",
        "For isotropic inputs the comparison turns into d_in against d_out: with d_in above d_out freezing A is the "
        "worse choice there. The advantage comes from inputs with a few strong directions.",
        "Found here: on digits turned by 90 degrees, where the input layer must change, training A alone does "
        "better on average than training B alone; over three seeds their ranges overlap.",
    ),
    needs=("language",),
    data=("all_minilm_l6_v2",),
)

OUT, IN, RANK = 24, 32, 4


def _problem(run: Run, stream: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A change D, and inputs' covariance Σ = R R' with its root R: all Gaussian."""
    generator = run.generator(stream)
    change = torch.randn(OUT, IN, generator=generator, dtype=torch.float64)
    root = torch.randn(IN, IN, generator=generator, dtype=torch.float64)
    return change, root @ root.T, root


def _factor(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Uniformly random orthonormal rows, as the adapters draw them."""
    return lora.draw("orthonormal", rows, width, generator).double()


def closed_forms_are_optimal(run: Run, trials: int = 20) -> None:
    """Both closed forms are the minimum that least squares finds, and a layer with the best B attains it."""
    generator, worst, layers = run.generator(1), {"A": 0.0, "B": 0.0}, 0.0
    for trial in range(trials):
        change, covariance, root = _problem(run, 10 + trial)
        Q, U = _factor(RANK, IN, generator), _factor(RANK, OUT, generator).T
        solved = torch.linalg.lstsq((Q @ root).T, (change @ root).T)
        least = ((change - solved.solution.T @ Q) @ root).square().sum()
        worst["A"] = max(worst["A"], _off(asymmetry.excess_freeze_A(change, covariance, Q), least))
        least = ((change - U @ torch.linalg.lstsq(U, change).solution) @ root).square().sum()
        worst["B"] = max(worst["B"], _off(asymmetry.excess_freeze_B(change, covariance, U), least))
        layers = max(layers, _layer_gap(change, covariance, root, Q))
    claim = "least squares finds the closed form's least risk with"
    run.check(f"{claim} A frozen (worst relative gap of {trials})", worst["A"], below=1e-8)
    run.check(f"{claim} B frozen (worst relative gap of {trials})", worst["B"], below=1e-8)
    run.check("a LoRA layer with A frozen at Q and the best B has that risk (worst relative gap)", layers, below=1e-5)


def _off(measured: Tensor, exact: Tensor) -> float:
    return float((measured - exact).abs() / exact)


def _layer_gap(change: Tensor, covariance: Tensor, root: Tensor, Q: Tensor) -> float:
    """The closed form against the risk of a layer, run on inputs whose second moment is Σ exactly."""
    base = nn.Linear(IN, OUT, bias=False).double()
    layer = lora.LoRALinear(base, RANK, train="B")
    with torch.no_grad():
        layer.A.copy_(Q)
        layer.B.copy_(asymmetry.best_B(change, covariance, Q))
        gap = layer(root.T) - root.T @ (base.weight + change).T
    return _off(gap.square().sum(), asymmetry.excess_freeze_A(change, covariance, Q))


def freezing_A_costs_less(run: Run, draws: int = 300) -> None:
    """Over random factors and inputs with strong and weak directions, freezing A costs less than freezing B."""
    change, covariance, _ = _problem(run)
    generator = run.generator(2)
    total = torch.trace(change @ covariance @ change.T)
    with_A, with_B = _draws(change, covariance, draws, generator)
    theory = asymmetry.expected_freeze_B(change, covariance, RANK)
    run.check(
        f"mean excess risk of {draws} random factors, A frozen over B frozen",
        with_A.mean() / with_B.mean(),
        below=0.95,
        paper="freezing A costs no more in expectation",
    )
    run.check("mean with B frozen over (1 − r/d_out) Tr[DΣD']", with_B.mean() / theory, between=(0.99, 1.01))
    identity = torch.eye(IN, dtype=torch.float64)
    flat_A, flat_B = _draws(change, identity, draws, generator)
    expected_A, expected_B = (
        asymmetry.expected_freeze_A_isotropic(change, RANK), asymmetry.expected_freeze_B(change, identity, RANK)
    )  # fmt: skip
    run.check("white inputs: mean with A frozen over (1 − r/d_in) Tr[DD']", flat_A.mean() / expected_A,
              between=(0.98, 1.02))  # fmt: skip
    run.check("white inputs: mean with B frozen over (1 − r/d_out) Tr[DD']", flat_B.mean() / expected_B,
              between=(0.98, 1.02))  # fmt: skip
    power = change.square().sum()
    rows = [
        {"inputs": "Σ random", "A frozen": float(with_A.mean() / total), "B frozen": float(with_B.mean() / total),
         "share of draws in which A frozen is the better": float((with_A < with_B).double().mean())},
        {"inputs": "Σ = I", "A frozen": float(flat_A.mean() / power), "B frozen": float(flat_B.mean() / power),
         "share of draws in which A frozen is the better": float((flat_A < flat_B).double().mean())},
    ]  # fmt: skip
    run.table(
        "excess risk",
        rows,
        f"share of the change that is missed; {draws} draws, d_in = {IN}, d_out = {OUT}, r = {RANK}",
    )
    _plot_draws(run, with_A / total, with_B / total, theory / total)
    bound = asymmetry.generalization_bound([(OUT, IN)], RANK, samples=1000)
    run.text(
        "What it shows",
        f"With A frozen, B alone misses {100 * rows[0]['A frozen']:.0f}% of the wanted change, with B frozen "
        f"{100 * rows[0]['B frozen']:.0f}%. Where the inputs are white it is the other way round, since d_in > d_out. "
        f"The bound on overfitting falls from {bound.both:.2f} for both factors to {bound.only_B:.2f} for B alone.",
    )


def _draws(change: Tensor, covariance: Tensor, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    with_A, with_B = [], []
    for _ in range(draws):
        Q, U = _factor(RANK, IN, generator), _factor(RANK, OUT, generator).T
        with_A.append(asymmetry.excess_freeze_A(change, covariance, Q))
        with_B.append(asymmetry.excess_freeze_B(change, covariance, U.contiguous()))
    return torch.stack(with_A), torch.stack(with_B)


def _plot_draws(run: Run, with_A: Tensor, with_B: Tensor, theory: Tensor) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    edges = torch.linspace(0.55, 1, 40).tolist()
    axes.hist(with_A.tolist(), edges, alpha=0.7, label="A random and frozen, B trained")
    axes.hist(with_B.tolist(), edges, alpha=0.7, label="B random and frozen, A trained")
    axes.axvline(float(theory), color="C3", lw=1.5, label="1 − r / d_out")
    axes.set(xlabel="share of the change that is missed", ylabel="draws", title="The best of the other factor")
    axes.legend(loc="upper left")
    run.plot("draws", figure, "Least excess risk over random frozen factors: closed forms.")


def half_the_parameters(run: Run) -> None:
    """Training B alone trains r · out numbers, and they alone get gradients."""
    net, x = _small_net(run)
    attached = apply.attach_lora(net, "*", RANK, train="B", init="orthonormal", generator=run.generator(4))
    run.check("numbers trained with B alone", attached.num_trained, equals=RANK * (OUT + IN))
    with torch.no_grad():
        for adapter in apply.adapters(net).values():
            adapter.B.add_(1)
    net(x).square().sum().backward()
    run.check("numbers of A that get a gradient", _with_gradient(net, "A"), equals=0)
    run.check("numbers of B that get a gradient", _with_gradient(net, "B"), equals=RANK * (OUT + IN))


def peft_reads_it(run: Run) -> None:
    """A folder with B trained and A frozen gives the same outputs in `peft`."""
    import peft

    net, x = _small_net(run)
    base, generator = copy.deepcopy(net), run.generator(4)
    attached = apply.attach_lora(net, "*", RANK, train="B", init="orthonormal", generator=generator)
    with torch.no_grad():
        for parameter in attached.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    moved = ((net(x) - base(x)).norm() / net(x).norm()).detach()
    run.check("share of the output that the adapters change", moved, above=0.1)
    with tempfile.TemporaryDirectory() as folder:
        peft_files.save_peft(net, folder)
        theirs = peft.PeftModel.from_pretrained(base, folder)
    error = (theirs(x) - net(x)).norm() / net(x).norm()
    run.check("output of peft's model from our file against ours (relative)", error, below=1e-5)


def _small_net(run: Run) -> tuple[nn.Module, Tensor]:
    generator = run.generator(3)
    net = nn.Sequential(nn.Linear(IN, OUT), nn.Tanh(), nn.Linear(OUT, IN))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return net, torch.randn(16, IN, generator=generator)


def _with_gradient(net: nn.Module, factor: str) -> int:
    own = [adapter.own()[factor] for adapter in apply.adapters(net).values()]
    return sum(p.numel() for p in own if p.grad is not None and bool(p.grad.abs().sum() > 0))


def digits_table(run: Run, seeds: int = 3, steps: int = 120) -> None:
    """Both factors, B alone, A alone, on turned digits: reported, not gated; and how alike factors of seeds are."""
    digits, rows, alike = transfer.load_digits(), [], []
    base = transfer.mlp(run.seed)
    transfer.train(base, digits.train, digits.train_labels, steps=200, lr=2e-3, seed=run.seed)
    for train in run.progress(lora.TRAINS, "turned digits"):
        found, factors = [], []
        for seed in range(run.seed, run.seed + seeds):
            net, generator = copy.deepcopy(base), torch.Generator().manual_seed(seed)
            change = partial(
                apply.attach_lora, pattern="*", rank=RANK, train=train, init="orthonormal", generator=generator
            )
            found.append(transfer.adapt(net, digits, change, steps=steps, lr=1e-2, seed=seed))
            factors.append({f"{n}.{k}": p.detach() for n, a in apply.adapters(net).items() for k, p in a.own().items()})
        rows.append({
            "trained": train, "numbers": found[0].trained, "turned digits": sum(o.new for o in found) / seeds,
            "lowest": min(o.new for o in found), "highest": max(o.new for o in found),
            "upright digits": sum(o.old for o in found) / seeds,
        })  # fmt: skip
        if train == "AB":
            alike = _similarities(factors)
    run.table("digits", rows, f"accuracy after {steps} steps, rank {RANK}, {seeds} seeds")
    run.table("digits factors", alike, "how alike the trained factors of two seeds are; chance is r / width")
    by = {row["trained"]: row["turned digits"] for row in rows}
    run.text(
        "Digits",
        f"Both factors reach {by['AB']:.3f}, B alone {by['B']:.3f}, A alone {by['A']:.3f}: turning the picture must "
        "change how the input is read. These are means; the table gives the ranges, and it is not gated.",
    )


def minilm_table(run: Run, seeds: int = 2) -> None:
    """The same on MiniLM and four texts."""
    from joblib import Parallel, delayed

    jobs = [(train, run.seed + seed) for train in lora.TRAINS for seed in range(seeds)]
    found = Parallel(n_jobs=2)(delayed(task.fine_tune)(partial(_attach, train=t), 2e-3, seed) for t, seed in jobs)
    rows, alike = [], []
    for train in lora.TRAINS:
        own = [r for (t, _), r in zip(jobs, found, strict=True) if t == train]
        scores = [r.accuracy for r in own]
        rows.append({"trained": train, "numbers": own[0].trained, "mean accuracy": sum(scores) / seeds,
                     "lowest": min(scores), "highest": max(scores)})  # fmt: skip
        if train == "AB":
            alike = _similarities([r.factors for r in own])
    run.table("MiniLM", rows, f"which of four texts eight words come from; rank 8, {seeds} seeds")
    run.table("MiniLM factors", alike, "mean over the layers of how alike the trained factors of two seeds are")


def _attach(net: nn.Module, seed: int, train: str) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return apply.attach_lora(
        net,
        task.QUERIES_AND_VALUES,
        rank=8,
        alpha=16,
        train=train,
        init="orthonormal",
        keep="head",
        generator=generator,
    )


def _similarities(factors: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """For A and for B: mean over layers and pairs of seeds, and what chance gives."""
    rows = []
    for letter in "AB":
        values, chance = [], []
        for name in (n for n in factors[0] if n.endswith(f".{letter}")):
            spaces = [f[name] if letter == "A" else f[name].T.contiguous() for f in factors]
            values += [float(asymmetry.subspace_similarity(a, b)) for a, b in combinations(spaces, 2)]
            chance.append(spaces[0].shape[0] / spaces[0].shape[1])
        rows.append({"factor": letter, "similarity": sum(values) / len(values), "chance": sum(chance) / len(chance)})
    return rows


def experiment(run: Run, *, seeds: int = 2) -> None:
    """The regression in closed form, the counts, and tables of what each factor learns.

    Args:
        seeds: fine-tunings of each kind on MiniLM in the full profile.
    """
    closed_forms_are_optimal(run)
    freezing_A_costs_less(run)
    half_the_parameters(run)
    if not run.quick:
        peft_reads_it(run)
        digits_table(run)
        minilm_table(run, seeds)
