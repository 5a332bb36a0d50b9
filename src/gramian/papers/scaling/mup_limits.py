"""Tensor Programs IV: which parametrizations learn features as the width grows, and an exact limit that does."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.data import text
from gramian.lab import Card, Run
from gramian.optim.parametrization import coordinates, exponents, rules, shapes
from gramian.science import limits

CARD = Card(
    title="Feature Learning in Infinite-Width Neural Networks",
    row=63,
    arxiv="2011.14522",
    year=2020,
    kind="theory",
    idea="Write multiplier, start and rate of each layer as powers of the width. The powers decide what an infinitely "
    "wide network does: run away, stand still, descend along a fixed kernel, or learn features, which maximal update "
    "does in every layer.",
    claim="Standard and tangent parametrizations have no feature-learning limit; maximal update has one, it can be "
    "computed exactly, and finite networks approach it.",
    keywords=("muP", "maximal update", "infinite width", "neural tangent kernel", "mean field", "abc-parametrization"),
    api=(
        "gramian.optim.parametrization.exponents.ABC",
        "gramian.optim.parametrization.exponents.classify",
        "gramian.optim.parametrization.rules.mup",
        "gramian.science.limits.LinearTwoLayerLimit",
    ),
    use="classify(maximal_update(2))  # 'feature'\nmodel, groups = mup(wide, narrow, lr=1e-3)\n"
    "limit = LinearTwoLayerLimit(inputs, outputs, lr=1.0)\nlimit.step(lambda f: loss(x @ f.mT, y))",
    reach="word analogies after training on text8 and Wikipedia, and Omniglot; 4,000 words and the digits stand in",
    differs=(
        "The limit of the linear network with one hidden layer is kept as one covariance matrix of the neurons' "
        "weights, not as coefficients over the steps taken.",
    ),
)

# learning rates of mup 1.0.0's MuSGD and MuAdam and its MuReadout's multiplier for the network of `_mixed`
# at widths (first, second), base (16, 32): embedding, linear w b, norm w b, linear w b, readout w b
MUP_PACKAGE = {
    (64, 32): ([4, 0.25, 1, 1, 1, 4, 4, 4, 1], [1, 0.25, 1, 1, 1, 1, 1, 1, 1], 0.25),
    (64, 256): ([4, 2, 8, 8, 8, 0.5, 4, 4, 1], [1, 0.25, 1, 1, 1, 0.125, 1, 1, 1], 0.25),
    (256, 128): ([16, 0.25, 4, 4, 4, 4, 16, 16, 1], [1, 0.0625, 1, 1, 1, 0.25, 1, 1, 1], 0.0625),
}


def powers_are_classified(run: Run) -> None:
    """The known parametrizations, each in two writings."""
    known = {
        "standard, constant rate": (exponents.standard(2), "unstable"),
        "standard, rate 1/n": (exponents.standard(2, c=1), "kernel"),
        "standard, rate 1/n²": (exponents.standard(2, c=2), "trivial"),
        "neural tangent": (exponents.neural_tangent(2), "kernel"),
        "mean field, one hidden layer": (exponents.mean_field(), "feature"),
        "maximal update": (exponents.maximal_update(2), "feature"),
    }
    rows, right = [], 0
    for name, (abc, expected) in known.items():
        found = {exponents.classify(abc), exponents.classify(abc.shifted(0.7)), exponents.classify(abc.shifted(-1.3))}
        right += found == {expected}
        rows.append({"parametrization": name, "a": str(abc.a), "b": str(abc.b), "c": abc.c, "r": abc.r,
                     "limit": ", ".join(sorted(found))})  # fmt: skip
    run.table("powers", rows, "Powers of the width and the limit they have; features change by the order of n^−r.")
    run.check(f"parametrizations classified as in the paper, of {len(known)}", right, equals=len(known), paper="same")
    same = exponents.mean_field().shifted(-0.5) == exponents.maximal_update(1)
    run.check("mean field with one hidden layer is maximal update, rewritten", same, equals=True, paper="the same")


def _mixed(first: int, second: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Embedding(20, first), nn.Linear(first, second), nn.LayerNorm(second), nn.Linear(second, first),
        nn.Linear(first, 5),
    )  # fmt: skip


def groups_equal_the_package(run: Run) -> None:
    """Learning rates and multipliers against those that the mup package gives."""
    wrong = total = 0
    for sizes, (sgd, adam, multiplier) in MUP_PACKAGE.items():
        for optimizer, expected in (("sgd", sgd), ("adam", adam)):
            with torch.device("meta"):
                model, base, delta = _mixed(*sizes), _mixed(16, 32), _mixed(17, 33)
            settings = {"lr": 1.0, "optimizer": optimizer, "delta": delta, "initialize": False}
            model, groups = rules.mup(model, base, **settings)
            rate = {id(p): g["lr"] for g in groups for p in g["params"]}
            found = shapes.weights(model)
            wrong += sum(rate[id(w.parameter)] != e for w, e in zip(found, expected))
            held = getattr(model[4], "parametrizations", {})
            wrong += ("weight" not in held) or held["weight"][0].factor != multiplier
            total += len(expected) + 1
    claim = f"learning rates and multipliers that differ from the mup package's, of {total}"
    run.check(claim, wrong, equals=0, paper="the authors' package, mup 1.0.0")


def _linear(width: int, seed: int, lr: float, inputs: int, outputs: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    def net(n: int) -> nn.Module:
        sizes = ((inputs, n), (n, outputs))
        return nn.Sequential(*(nn.utils.skip_init(nn.Linear, a, b, bias=False, dtype=torch.float64) for a, b in sizes))

    model, groups = exponents.maximal_update(1).apply(
        net(width), shapes.base_shapes(net(1)), lr=lr, generator=torch.Generator().manual_seed(seed)
    )
    return model, torch.optim.SGD(groups)


def finite_networks_approach_the_limit(run: Run, widths: Sequence[int] = (64, 256, 1024, 4096, 16384)) -> None:
    """Networks under maximal update, trained by SGD, beside the exact limit."""
    inputs, outputs, lr, steps, seeds = 6, 3, 0.1, 8, 8
    generator = run.generator(1)
    x = torch.randn(24, inputs, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
    # at base width 1 the first layer's entries have variance 1/inputs
    settings = {"lr": lr, "input_scale": inputs**-0.5, "dtype": torch.float64}
    limit, kernel = (
        limits.LinearTwoLayerLimit(inputs, outputs, **settings),
        limits.KernelLimit(inputs, outputs, **settings),
    )
    for _ in range(steps):
        for each in (limit, kernel):
            each.step(lambda f: F.mse_loss(x @ f.mT, y))
    errors: dict[str, list[float]] = {"maximal-update limit": [], "kernel limit": []}
    for width in run.progress(widths, "widths"):
        gaps: list[list[float]] = [[], []]
        for seed in range(seeds):
            model, tuner = _linear(width, run.seed * 100 + seed, lr, inputs, outputs)
            optim.fit(model, (x, y), lambda m, a, b: F.mse_loss(m(a), b), steps=steps, batch_size=len(x),
                      optimizer=lambda _, tuner=tuner: tuner, show_progress=False)  # fmt: skip
            with torch.no_grad():
                function = model(torch.eye(inputs, dtype=torch.float64)).mT
            for gap, each in zip(gaps, (limit, kernel)):
                gap.append(float((function - each.function).norm() / each.function.norm()))
        for name, gap in zip(errors, gaps):
            errors[name].append(math.exp(sum(math.log(g) for g in gap) / seeds))
    slope = coordinates.log_slope(widths, errors["maximal-update limit"])
    run.check("error of finite networks against the limit: power of the width", slope, between=(-0.6, -0.4),
              paper="−1/2")  # fmt: skip
    last = errors["kernel limit"][-1]
    run.check(f"and against the kernel limit at width {widths[-1]} (relative error)", last, above=0.1, paper="far")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5.4, 3.4))
    for name, values in errors.items():
        panel.loglog(widths, values, "o-", label=f"to the {name}")
    first = errors["maximal-update limit"][0]
    panel.loglog(widths, [first * (n / widths[0]) ** -0.5 for n in widths], "--", lw=1, label="n^−½")
    panel.set(xlabel="width", ylabel="relative distance")
    panel.legend()
    run.plot(
        "limit", figure, f"Linear networks under maximal update after {steps} steps of SGD, and what they tend to."
    )


def _tanh(width: int) -> nn.Sequential:
    linear = [nn.utils.skip_init(nn.Linear, a, b, bias=False) for a, b in ((64, width), (width, width), (width, 10))]
    return nn.Sequential(linear[0], nn.Tanh(), linear[1], nn.Tanh(), linear[2])


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(digits.target)


def features_move_or_stand(run: Run, widths: Sequence[int] = (64, 128, 256, 512, 1024)) -> None:
    """How the change of hidden features grows with the width after three steps of SGD."""
    x, y = (t[:64] for t in _digits())
    named = {"maximal update": exponents.maximal_update(2), "neural tangent": exponents.neural_tangent(2)}
    base = shapes.base_shapes(_tanh(64))
    found: dict[str, coordinates.Coordinates] = {}
    for name, abc in named.items():

        def make(width: int, seed: int, abc: exponents.ABC = abc) -> tuple[nn.Module, torch.optim.Optimizer]:
            model, groups = abc.apply(_tanh(width), base, lr=0.3, generator=torch.Generator().manual_seed(seed))
            return model, torch.optim.SGD(groups)

        found[name] = coordinates.coordinate_check(
            make, widths, (x, y), lambda m, a, b: F.cross_entropy(m(a), b), steps=3, seeds=(run.seed, run.seed + 1)
        )
    rows = [{"parametrization": name, **row} for name, check in found.items() for row in check.rows()]
    run.table(
        "slopes", rows, "Powers of the width by which each grows, three steps, tanh network with two hidden layers."
    )
    slopes = {name: check.slopes("change")["2.weight"] for name, check in found.items()}
    run.check("maximal update: power of the width in the second layer's change", slopes["maximal update"],
              between=(-0.1, 0.1), paper="0")  # fmt: skip
    run.check("neural tangent: the same", slopes["neural tangent"], between=(-0.6, -0.4), paper="−1/2")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5.4, 3.4))
    for i, (name, check) in enumerate(found.items()):
        for style, label, key in (("o-", "second hidden layer", "2.weight"), ("s--", "first hidden layer", "0.weight")):
            panel.loglog(widths, check.change[key], style, color=f"C{i}", label=f"{name}: {label}")
    panel.set(xlabel="width", ylabel="change of the features (rms)")
    panel.set_xticks(widths, widths)
    panel.minorticks_off()
    panel.legend(fontsize=8)
    run.plot("features", figure, "Under maximal update features of every width learn; under the tangent "
             "parametrization wider networks' features stand still.")  # fmt: skip


def _corpus(size: int, window: int) -> tuple[list[str], Tensor, Tensor]:
    """Vocabulary, mean bag of a word's neighbours, and the word."""
    words = re.findall(r"[a-z]+", " ".join([*text.passages(12), text.descriptions()]).lower())
    vocabulary = [w for w, _ in Counter(words).most_common(size)]
    number = {w: i for i, w in enumerate(vocabulary)}
    ids = [number.get(w, -1) for w in words]
    bags, centres = [], []
    for t, centre in enumerate(ids):
        around = [i for i in ids[max(0, t - window) : t] + ids[t + 1 : t + 1 + window] if i >= 0]
        if centre >= 0 and around:
            bag = torch.zeros(size)
            bag.index_add_(0, torch.tensor(around), torch.full((len(around),), 1 / len(around)))
            bags.append(bag)
            centres.append(centre)
    return vocabulary, torch.stack(bags), torch.tensor(centres)


def _word_geometry(bags: Tensor, centres: Tensor, rank: int = 32) -> Tensor:
    """The oracle: cosines of words by the leading singular vectors of their positive mutual information."""
    counts = torch.zeros(bags.shape[1], bags.shape[1]).index_add_(0, centres, bags)
    joint = (counts + counts.mT) / (2 * counts.sum())
    expected = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    information = (joint.clamp_min(1e-12) / expected.clamp_min(1e-12)).log().clamp_min(0)
    U, S, _ = torch.linalg.svd(information)
    return _cosines((U[:, :rank] * S[:rank]) @ U[:, :rank].mT)


def _cosines(gram: Tensor) -> Tensor:
    size = gram.diagonal().sqrt()
    places = torch.triu_indices(len(gram), len(gram), 1)
    return (gram / size[:, None] / size)[places[0], places[1]]


def words_are_learned(run: Run, size: int = 120, steps: int = 150) -> None:
    """Continuous bag of words in both limits, over learning rates."""
    from scipy.stats import spearmanr

    vocabulary, bags, centres = _corpus(size, 3)
    truth = _word_geometry(bags, centres)
    rows: list[dict[str, Any]] = []
    kinds = {"feature limit": limits.LinearTwoLayerLimit, "kernel limit": limits.KernelLimit}
    for (name, kind), lr in itertools.product(kinds.items(), (4.0, 8.0, 16.0, 64.0)):
        limit, generator = kind(size, size, lr=lr), run.generator(2)
        row: dict[str, Any] = {"limit": name, "lr": lr, "loss": None, "agreement": None}
        try:
            for _ in range(steps):
                chosen = torch.randint(len(bags), (256,), generator=generator)
                x, y = bags[chosen], centres[chosen]
                limit.step(lambda f, x=x, y=y: F.cross_entropy(x @ f.mT, y))
            value = float(F.cross_entropy(bags @ limit.function.mT, centres))
            if math.isfinite(value):
                cosines = _cosines(limit.features)
                flat = float(cosines.std()) < 1e-6
                row |= {"loss": value, "agreement": 0.0 if flat else float(spearmanr(cosines, truth).statistic)}
        except ValueError:  # ran away: the table shows a gap
            pass
        rows.append(row)
    run.table("words", rows, f"{size} words, {steps} steps. Agreement: rank correlation of the embeddings' cosines "
              "with those of the words' mutual information. A gap: ran away.")  # fmt: skip
    at = {r["limit"]: r for r in rows if r["lr"] == 8.0}
    feature, kernel = at["feature limit"], at["kernel limit"]
    gap = (kernel["loss"] or math.inf) - (feature["loss"] or math.inf)
    run.check("words, rate 8: loss of the kernel limit above the feature limit's", gap, above=0.3)
    run.check("words, rate 8: agreement of the feature limit's embeddings with mutual information",
              feature["agreement"] or 0.0, above=0.2, paper="embeddings of the kernel limit stay random")  # fmt: skip
    run.check("the same in the kernel limit", kernel["agreement"] or 0.0, between=(-0.05, 0.05))
    run.text(
        "words",
        "At one rate the feature limit learns faster, and its embeddings take the shape of the words' statistics while "
        "the kernel limit's never move. The kernel limit is a convex problem that bears larger rates; both limits can "
        "represent the same functions, so that with enough steps its training loss comes as low.",
    )


def _tasks(
    x: Tensor, y: Tensor, classes: Sequence[int], generator: torch.Generator, ways: int = 3, queries: int = 5
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """One support image a class, and some to classify."""
    support, query = [], []
    for place in torch.randperm(len(classes), generator=generator)[:ways].tolist():
        found = torch.nonzero(y == classes[place])[:, 0]
        found = found[torch.randperm(len(found), generator=generator)[: 1 + queries]]
        support.append(x[found[:1]])
        query.append(x[found[1:]])
    labels = torch.arange(ways)
    return (torch.cat(support), labels), (torch.cat(query), labels.repeat_interleave(queries))


def _objective(data: tuple[Tensor, Tensor]) -> limits.Objective:
    x, y = data
    return lambda f: F.cross_entropy(x @ f.mT, y)


def digits_are_learned_to_learn(run: Run, steps: int = 100, episodes: int = 800) -> None:
    """Meta-learning from one image a class, in both limits."""
    x, y = _digits()
    x = F.normalize(x - x.mean(0), dim=1)
    half = len(x) // 2
    seen, unseen = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
    rows = []
    for name, kind in (("feature limit", limits.LinearTwoLayerLimit), ("kernel limit", limits.KernelLimit)):
        limit, generator = kind(64, 3, lr=0.3), run.generator(3)
        for _ in range(steps):
            tasks = [_tasks(x[:half], y[:half], seen, generator) for _ in range(4)]
            limit.meta_step([(_objective(s), _objective(q)) for s, q in tasks], 3.0)
        row: dict[str, Any] = {"limit": name}
        for label, classes in (("new images", seen), ("new classes", unseen)):
            generator, hits = run.generator(4), 0.0
            for _ in range(episodes):
                support, (images, labels) = _tasks(x[half:], y[half:], classes, generator)
                there = limit.adapted(_objective(support), 1, 3.0).function
                hits += float(((images @ there.mT).argmax(1) == labels).float().mean())
            row[label] = hits / episodes
        rows.append(row)
    run.table("meta-learning", rows, "Accuracy after one step on one image of each of three classes, meta-learned on "
              "digits 0–4; new images are of these, new classes are 5–9.")  # fmt: skip
    gain = rows[0]["new images"] - rows[1]["new images"]
    run.check("one-shot accuracy on new images: feature limit above kernel limit by", gain, above=0.008,
              paper="Omniglot: the feature limit wins")  # fmt: skip


def experiment(run: Run, *, steps: int = 150) -> None:
    """Powers classified, groups as the package's, the exact limit, features over widths, and (full) words and digits.

    Args:
        steps: of the training on words (full only).
    """
    powers_are_classified(run)
    groups_equal_the_package(run)
    finite_networks_approach_the_limit(run)
    features_move_or_stand(run)
    run.text(
        "what it shows",
        "The powers of the width decide what a wide network can be. Under maximal update a network's features change "
        "by the same amount at width 64 and 1,024; under the tangent parametrization by a quarter at sixteen times the "
        "width. And the limit is no abstraction: for a linear network one covariance matrix follows the training of "
        "infinitely many neurons, and networks of finite width come near it like 1/√width.",
    )
    if not run.quick:
        words_are_learned(run, steps=steps)
        digits_are_learned_to_learn(run)
