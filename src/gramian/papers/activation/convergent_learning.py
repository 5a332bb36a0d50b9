"""Convergent learning: do two networks of different starts learn the same units? (Li et al., 2015)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from gramian.analysis.geometry import matching, paired
from gramian.lab import Card, Run
from gramian.linalg.manifold import orthogonal
from gramian.surgery.adapters import transfer

CARD = Card(
    title="Convergent Learning: Do different neural networks learn the same representations?",
    row=120,
    arxiv="1511.07543",
    year=2015,
    kind="method",
    idea="Correlate every unit of one network with every unit of another on the same inputs, then match units one to "
    "one, predict one unit from few of the other network by an L1 penalty, and cluster the units of both together.",
    claim="Some units are learned by every network, others are not; the subspaces that units span are shared, the "
    "basis is only partly: a code between local and distributed.",
    keywords=(
        "representation similarity",
        "neuron alignment",
        "bipartite matching",
        "permutation",
        "lasso",
        "spectral clustering",
        "compare networks",
    ),
    api=(
        "gramian.analysis.geometry.matching.unit_stats",
        "gramian.analysis.geometry.matching.match_units",
        "gramian.analysis.geometry.matching.sparse_predict",
        "gramian.analysis.geometry.matching.cocluster",
        "gramian.analysis.geometry.paired.PairedStatistics",
    ),
    use='stats, _, _ = unit_stats(net_a, net_b, batches, ("2", "2")).alive()\n'
    'pairs = match_units(stats.correlation, kind="assign")',
    reach="four networks like AlexNet on ImageNet; small networks on digits of 8 × 8 stand in",
    differs=(
        "The sparse prediction works on second moments by coordinate descent, so no activation is stored; the paper "
        "trains it by stochastic gradient descent on activations.",
        "Found here: units of small dense networks on digits match by .70 to .80, but those of a randomly rotated "
        "basis still by .64 to .73: a matched correlation says mostly that the subspace is shared and small. "
        "Hardly a unit is without a partner above .3, which the paper's larger networks have.",
    ),
)

PENALTIES = (0.3, 0.1, 0.03, 0.01)


def permutation_is_recovered(run: Run, units: int = 120, samples: int = 2000) -> None:
    """A shuffled copy with noise: the assignment is the shuffle."""
    generator = run.generator()
    mix = torch.randn(units, units, generator=generator) * units**-0.5 + torch.eye(units)
    x = torch.randn(samples, units, generator=generator) @ mix
    order = torch.randperm(units, generator=generator)
    noise = torch.randn(samples, units, generator=generator)
    stats = paired.PairedStatistics()
    for rows in torch.arange(samples).split(300):
        stats.update(x[rows], (x + 0.7 * noise)[rows][:, order])
    found = matching.match_units(stats.correlation)
    right = (order[found.second] == found.first).double().mean()
    run.check(f"share of {units} shuffled, noisy units that the assignment finds", right, above=0.99)


def assignments_are_the_best(run: Run, trials: int = 20) -> None:
    """All permutations of six units, and the order of the two kinds of matching."""
    generator = run.generator(1)
    orders = torch.tensor(list(itertools.permutations(range(6))))
    gaps, below = [], 0
    for _ in range(trials):
        c = 2 * torch.rand(6, 6, generator=generator, dtype=torch.float64) - 1
        best = float(c[torch.arange(6), orders].sum(1).max())
        pairs, semi = matching.match_units(c, "assign"), matching.match_units(c, "semi")
        taken_once = len(set(pairs.second.tolist())) == 6
        gaps.append(abs(float(c[pairs.first, pairs.second].sum()) - best) if taken_once else float("inf"))
        below += float(semi.values.mean()) < float(pairs.values.mean()) - 1e-12
    run.check("assignment of six units against all 720, largest difference of the sums", max(gaps), below=1e-12)
    run.check("matrices whose semi-matching is below the assignment on average", below, equals=0)
    c = torch.rand(40, 40, generator=generator, dtype=torch.float64)
    gain = matching.match_units(c, "semi").values.mean() - c.amax(1).mean()
    run.check("semi-matching against row maxima (difference)", gain.abs(), below=1e-12)


def same_subspace_other_basis(run: Run, units: int = 64, samples: int = 1500) -> None:
    """A rotated copy has no like units, but each of its units is a sum of the other's."""
    generator = run.generator(2)
    x = torch.randn(samples, units, generator=generator, dtype=torch.float64)
    y = x @ orthogonal.haar(units, generator, dtype=torch.float64) + 0.05 * torch.randn(
        samples, units, generator=generator, dtype=torch.float64
    )
    stats = paired.PairedStatistics()
    stats.update(x, y)
    moments = stats.x.covariance, stats.cross.covariance
    dense = matching.explained(matching.dense_predict(*moments), *moments, stats.y.variance)
    run.check("rotated copy: matched correlation, mean", matching.match_units(stats.correlation).values.mean(),
              below=0.6, paper="subspaces are shared, basis vectors are not")  # fmt: skip
    run.check("rotated copy: variance that all units together explain, mean", dense.mean(), above=0.99)


def the_lasso_needs_no_rows(run: Run) -> None:
    """Weights from second moments against scikit-learn's, which reads the rows."""
    from sklearn.linear_model import Lasso

    generator = run.generator(3)
    x = torch.randn(300, 30, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(30, 30, generator=generator, dtype=torch.float64)
    y = x[:, :4] @ torch.randn(4, 5, generator=generator, dtype=torch.float64)
    y = y + torch.randn(300, 5, generator=generator, dtype=torch.float64) + 3
    stats = paired.PairedStatistics()
    stats.update(x, y)
    found = matching.sparse_predict(stats.x.covariance, stats.cross.covariance, (3.0, 1.0, 0.3))
    gap = 0.0
    for weights, alpha in zip(found.weights, found.alphas, strict=True):
        model = Lasso(alpha=float(alpha), tol=1e-10, max_iter=50_000).fit(x.numpy(), y.numpy())
        gap = max(gap, float((weights - torch.from_numpy(model.coef_.T)).abs().max()))
    run.check("weights against scikit-learn's lasso on rows, largest difference", gap, below=1e-5)
    used = found.used.double().mean(1)
    run.check("units read on average, largest penalty over smallest", used[0] / used[-1], below=0.9)


def planted_groups(run: Run, groups: int = 6, of_each: int = 8) -> None:
    """Units that follow six hidden factors, half in one network and half in the other."""
    from sklearn.metrics import adjusted_rand_score

    generator = run.generator(4)
    labels = torch.arange(groups).repeat_interleave(of_each)[torch.randperm(groups * of_each, generator=generator)]
    factors = torch.randn(600, groups, generator=generator)
    sign = torch.randint(0, 2, (len(labels),), generator=generator) * 2 - 1
    units = factors[:, labels] * sign + torch.randn(600, len(labels), generator=generator)
    stats = paired.PairedStatistics()
    stats.update(units[:, : len(labels) // 2], units[:, len(labels) // 2 :])
    found = matching.cocluster(stats.joint_correlation, groups, seed=run.seed)
    run.check("planted groups against those found, adjusted Rand index", adjusted_rand_score(labels, found.labels),
              above=0.95)  # fmt: skip
    run.check("groups that the eigenvalues suggest", matching.cocluster(stats.joint_correlation).suggested,
              equals=groups)  # fmt: skip


def _networks(seed: int, count: int, steps: int, convolutional: bool) -> tuple[list[nn.Module], list[nn.Module]]:
    """Trained networks of different seeds, and the same before training."""
    digits = transfer.load_digits()
    trained, untrained = [], []
    for s in range(seed, seed + count):
        pair = [transfer.cnn(s) if convolutional else transfer.mlp(s, (64, 64, 64, 10)) for _ in range(2)]
        transfer.train(pair[0], digits.train, digits.train_labels, steps=steps, lr=2e-3, seed=s)
        trained.append(pair[0])
        untrained.append(pair[1])
    return trained, untrained


class Shuffled(nn.Module):
    """A network that sees the images of a batch in another order."""

    def __init__(self, network: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        self.network, self.generator = network, generator

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x[torch.randperm(len(x), generator=self.generator)])


def _compare(run: Run, pair: tuple[nn.Module, nn.Module], layer: str, reduce: Any) -> dict[str, Any]:
    """Two networks at one layer: their matches, controls, predictions and groups."""
    digits, generator = transfer.load_digits(), run.generator(5)
    stats = matching.unit_stats(*pair, digits.train.split(512), (layer, layer), reduce=reduce)
    other = Shuffled(pair[1], generator)
    chance, _, _ = matching.unit_stats(
        pair[0], other, [digits.train], (layer, f"network.{layer}"), reduce=reduce
    ).alive()
    dead = [int(d.sum()) for d in stats.dead]
    stats, kept_x, kept_y = stats.alive()
    correlation = stats.correlation
    semi, pairs = matching.match_units(correlation, "semi"), matching.match_units(correlation, "assign")
    # the second network's units, standardized and rotated at random: the subspace stays, the units do not
    turn = orthogonal.haar(correlation.shape[1], generator, dtype=torch.float64)
    within_y = stats.joint_correlation[len(correlation) :, len(correlation) :]
    spread = (turn.T @ within_y @ turn).diagonal().sqrt()
    within = stats.joint_correlation[: len(correlation), : len(correlation)]
    sparse = matching.sparse_predict(within, correlation, PENALTIES, tolerance=1e-4)
    # what the weights explain on images that they were not fitted to
    held = matching.unit_stats(*pair, [digits.test], (layer, layer), reduce=reduce)
    xx, xy = held.x.covariance[kept_x][:, kept_x], held.cross.covariance[kept_x][:, kept_y]
    yy = held.y.variance[kept_y]
    seen = yy > 0
    scale = stats.y.variance.sqrt() / stats.x.variance.sqrt()[:, None]
    dense = matching.dense_predict(stats.x.covariance, stats.cross.covariance)
    weights = torch.cat((sparse.weights * scale, dense[None]))[..., seen]
    share = (matching.explained(weights, xx, xy[:, seen], yy[seen]) * yy[seen]).sum(-1) / yy[seen].sum()
    groups = matching.cocluster(stats.joint_correlation, 10, seed=run.seed)
    first, second = groups.labels[: len(correlation)].tolist(), groups.labels[len(correlation) :].tolist()
    return {
        "semi": float(semi.values.mean()), "assign": float(pairs.values.mean()),
        "rotated": float(matching.match_units((correlation @ turn) / spread).values.mean()),
        "shuffled": float(matching.match_units(chance.correlation).values.mean()),
        "not shared": int((semi.values < 0.3).sum()), "units": len(correlation), "dead": sum(dead),
        "best single": float(semi.values.square().mean()), "used": sparse.used.double().mean(1).tolist(),
        "share": share[:-1].tolist(), "all units": float(share[-1]),
        "shared groups": len(set(first) & set(second)), "suggested": groups.suggested,
        "matrix": correlation, "pairs": pairs,
    }  # fmt: skip


FIGURES = ("semi", "assign", "rotated", "shuffled", "best single", "all units", "units", "dead", "not shared",
           "shared groups", "suggested")  # fmt: skip


def networks_converge(
    run: Run, name: str, layers: tuple[str, ...], count: int, steps: int, *, convolutional: bool = False
) -> None:
    """Networks of different seeds on digits, every pair and layer, beside controls."""
    trained, untrained = _networks(run.seed, count, steps, convolutional)
    reduce = "places" if convolutional else "tokens"
    rows, results = [], []
    for layer, kind in itertools.product(layers, ("trained", "untrained")):
        networks = trained if kind == "trained" else untrained
        for i, j in itertools.combinations(range(count), 2):
            found = _compare(run, (networks[i], networks[j]), layer, reduce)
            results.append({"layer": layer, "networks": kind, **found})
            few = {"few units": found["used"][1], "they explain": found["share"][1]}
            rows.append(
                {"layer": layer, "networks": kind, "pair": f"{i}, {j}", **{k: found[k] for k in FIGURES}, **few}
            )
    run.table(
        name, rows, "semi, assign: mean correlation of matched units; rotated, shuffled: the same for a rotated basis "
        "and for shuffled images; best single, few, all units: share of a unit's variance they explain; "
        "not shared: units without a partner above 0.3; shared groups: of ten, those with units of both.",
    )  # fmt: skip

    def mean(key: str, kind: str = "trained") -> float:
        chosen = [float(r[key]) for r in rows if r["networks"] == kind]
        return sum(chosen) / len(chosen)

    run.check(f"{name}: matched correlation over that of shuffled images", mean("assign") - mean("shuffled"), above=0.2)
    if not run.quick:  # a single pair and rotation do not tell: the distance is small
        run.check(f"{name}: … over that of the same networks in a rotated basis", mean("assign") - mean("rotated"),
                  above=0.02, paper="the code is neither fully local nor fully distributed")  # fmt: skip
    run.check(f"{name}: … over that of networks before training", mean("assign") - mean("assign", "untrained"),
              above=0.1)  # fmt: skip
    if not convolutional:
        few, single = mean("they explain"), mean("best single")
        run.check(f"{name}: share that {mean('few units'):.1f} units explain on new images, above the best single "
                  "unit's", few - single, above=0.1)  # fmt: skip
        run.check(f"{name}: share that all units explain on new images, above that of few", mean("all units") - few,
                  above=0.02, paper="one unit there is a few here; a subspace is shared, not its basis")  # fmt: skip
    lonely = sum(r["not shared"] for r in rows if r["networks"] == "trained")
    run.text(
        name,
        f"Matched one to one, units of two trained networks correlate by {mean('assign'):.2f} on average; "
        f"{mean('assign', 'untrained'):.2f} before training, {mean('rotated'):.2f} after a random rotation of one "
        f"basis, {mean('shuffled'):.2f} by chance. {lonely} units of all pairs have no partner above 0.3. So most "
        "of the likeness comes with the subspace that the networks share; the units themselves add a little.",
    )
    _picture(run, name, [r for r in results if r["layer"] == layers[-1]])


def _picture(run: Run, name: str, results: list[dict[str, Any]]) -> None:
    from matplotlib import pyplot

    trained = next(r for r in results if r["networks"] == "trained")
    other = next(r for r in results if r["networks"] == "untrained")
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    order = trained["pairs"].values.argsort(descending=True)
    rows, columns = trained["pairs"].first[order], trained["pairs"].second[order]
    image = left.imshow(trained["matrix"][rows][:, columns], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    figure.colorbar(image, ax=left, label="correlation")
    left.set(xlabel="units of the second network", ylabel="units of the first", title="in matched order")
    left.grid(False)
    for label, found, colour in (("trained", trained, "C0"), ("before training", other, "C1")):
        values = found["pairs"].values.sort(descending=True).values
        middle.plot(torch.arange(1, len(values) + 1), values, color=colour, label=label)
        middle.axhline(found["rotated"], color=colour, linestyle=":", linewidth=1)
        right.plot(found["used"], found["share"], "o-", color=colour, label=label)
        right.axhline(found["all units"], color=colour, linestyle="--", linewidth=1)
    middle.axhline(trained["shuffled"], color="C3", linestyle="-.", linewidth=1, label="chance")
    middle.set(xlabel="unit", ylabel="correlation of its match", ylim=(0, 1), title="dotted: mean, basis rotated")
    middle.legend()
    right.set(xlabel="units that a prediction reads", ylabel="variance explained, new images", ylim=(0, 1),
              title="dashed: all units")  # fmt: skip
    right.legend()
    run.plot(name, figure, f"{name}: two networks of different seeds at the last hidden layer.")


def experiment(run: Run, *, networks: int = 3, steps: int = 300) -> None:
    """Matchings, predictions and groups against oracles, then networks of different seeds on digits.

    Args:
        networks: dense networks that the full profile compares in pairs (of convolutions it trains two).
        steps: of each of their trainings.
    """
    permutation_is_recovered(run)
    assignments_are_the_best(run)
    same_subspace_other_basis(run)
    the_lasso_needs_no_rows(run)
    planted_groups(run)
    if run.quick:
        networks_converge(run, "dense networks", ("4",), 2, 200)
        return
    networks_converge(run, "dense networks", ("2", "4"), networks, steps)
    networks_converge(run, "convolutions", ("2", "4"), 2, steps, convolutional=True)
