"""The local interaction basis: a layer's directions in the order in which the next layer uses them (2024)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian.analysis.explain import interaction_basis
from gramian.lab import Card, Run
from gramian.linalg.symmetry import irreps
from gramian.optim.fit import fit

CARD = Card(
    title="The Local Interaction Basis: Identifying Computationally-Relevant and Sparsely Interacting Features in "
    "Neural Networks",
    row=200,
    arxiv="2405.10928",
    year=2024,
    kind="method",
    idea="Whiten a layer's features, then turn them to the eigenvectors of what the next layer, already in its own "
    "basis, makes of them, and scale by how much that is. What carries nothing and what nobody reads is dropped; the "
    "basis does not depend on how the layer is parametrized.",
    claim="The basis finds directions that matter for the computation: far fewer of them than principal components are "
    "needed to keep what a small network computes.",
    keywords=("interpretability", "features", "basis", "Jacobian", "interaction", "modular addition", "sparse"),
    api=(
        "gramian.analysis.explain.interaction_basis.LocalInteractionBasis",
        "gramian.analysis.explain.interaction_basis.fold_biases",
    ),
    use='basis = LocalInteractionBasis(model, ["1", "3", "4"]).fit(inputs)\nbasis.transform(inputs, "1")\n'
    'basis.ablate(inputs, "1", keep=8)\nbasis.edges(inputs, "1")',
    reach="transformers; the paper's own runs on them found no advantage over principal components in nodes",
    differs=(
        "For networks whose layers follow each other, linear and elementwise; features are not centred, the constant "
        "is a coordinate like the others. Eigenvalues are dropped relative to the largest.",
        "Bounds of the modular addition were set after a look at other seeds.",
    ),
)


def _network(seed: int, *sizes: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def what_defines_it(run: Run) -> None:
    """Sizes are second moments, slopes into the next layer are orthonormal, and edges sum to the sizes."""
    model = _network(run.seed, 5, 12, 9, 4)
    x = torch.randn(600, 5, generator=run.generator(), dtype=torch.float64)
    found = interaction_basis.LocalInteractionBasis(model, ["1", "3", "4"]).fit(x)
    moments, slopes = 0.0, 0.0
    for layer, following in (("1", "3"), ("3", "4")):
        f = found.transform(x, layer)
        sizes = found.sizes[layer]
        moments = max(moments, float((f.mT @ f / len(f) - sizes.diag()).abs().max() / sizes.max()))
        gram = torch.zeros(len(sizes), len(sizes), dtype=torch.float64)
        for row in f:
            gram += _slopes(found, layer, following, row)
        slopes = max(slopes, float((gram / len(f) - torch.eye(len(sizes), dtype=gram.dtype)).abs().max()))
    run.check("second moments in the basis − diagonal of its sizes (relative)", moments, below=1e-8)
    run.check("Gram matrix of the slopes into the next layer − identity", slopes, below=1e-6)
    edges = found.edges(x, "1")
    whole = found.edges(x, "1", method="integrated")
    gap = (edges - whole).abs().max() / edges.max()
    run.check("edges by slopes − edges by slopes on the way from zero, which ReLU does not change (relative)", gap,
              below=1e-8)  # fmt: skip


def _slopes(found: Any, layer: str, following: str, row: Tensor) -> Tensor:
    """Jᵀ J of one sample, by autograd through the folded network in both bases."""
    number = found.names.index(layer)
    section = found._before[number + 1]

    def through(z: Tensor) -> Tensor:
        return section(z @ found._back[layer]) @ found.bases[following]

    slope = torch.autograd.functional.jacobian(through, row)
    assert isinstance(slope, Tensor)
    return slope.mT @ slope


def parametrization_does_not_matter(run: Run) -> None:
    """A hidden layer mixed by a random matrix that the next weights undo: the same features, up to sign."""
    model = _network(run.seed, 6, 10, 8, 3)
    x = torch.randn(500, 6, generator=run.generator(1), dtype=torch.float64)
    mixing = torch.randn(10, 10, generator=run.generator(2), dtype=torch.float64)
    mixed = nn.Sequential()
    for name, layer in model.named_children():
        mixed.add_module(name, layer)
        if name == "1":
            extra = nn.Linear(10, 10, bias=False).double()
            undone = nn.Linear(10, 8).double()
            with torch.no_grad():
                extra.weight.copy_(mixing)
                undone.weight.copy_(torch.linalg.solve(mixing.mT, model[2].weight.mT).mT)
                undone.bias.copy_(model[2].bias)
            mixed.add_module("mixed", extra)
        elif name == "2":
            setattr(mixed, "2", undone)
    plain = interaction_basis.LocalInteractionBasis(model, ["1", "3", "4"]).fit(x)
    other = interaction_basis.LocalInteractionBasis(mixed, ["mixed", "3", "4"]).fit(x)
    a, b = plain.transform(x, "1"), other.transform(x, "mixed")
    sizes = plain.sizes["1"]
    clear = sizes > 1e-6 * sizes[0]
    gap = float(((a.abs() - b.abs())[:, clear]).abs().max() / a.abs().max())
    run.check("features of the mixed layer − those of the layer, up to sign (relative)", gap, below=1e-6)
    run.check("sizes likewise", ((other.sizes["mixed"] - sizes)[clear] / sizes[clear]).abs().max(), below=1e-6)
    spectra = [torch.linalg.eigvalsh(f.mT @ f / len(f)) for f in (plain._states(x)[0], other._states(x)[0])]
    run.check("spectra of the principal components, mixed against not (relative)",
              ((spectra[0] - spectra[1]).norm() / spectra[0].norm()), above=0.1)  # fmt: skip


def what_nobody_reads_is_dropped(run: Run) -> None:
    """A direction with most of the variance that the next layer does not see."""
    generator = run.generator(3)
    turn = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64)).Q
    first, second = nn.Linear(7, 7, bias=False).double(), nn.Linear(7, 4, bias=False).double()
    unread = turn[:, 0]
    with torch.no_grad():
        first.weight.copy_(turn @ torch.diag(torch.tensor([20.0, 1, 1, 1, 1, 1, 1], dtype=torch.float64)))
        read = torch.randn(4, 7, generator=generator, dtype=torch.float64)
        second.weight.copy_(read - torch.outer(read @ unread, unread))
    x = torch.randn(800, 7, generator=generator, dtype=torch.float64)
    found = interaction_basis.LocalInteractionBasis(nn.Sequential(first, second), ["0", "1"]).fit(x)
    f = found._states(x)[0][:, :-1]
    carried = f @ unread
    seen = torch.corrcoef(torch.cat((carried[None], found.transform(x, "0").mT)))[0, 1:].abs().nan_to_num()
    first_component = torch.linalg.eigh(f.mT @ f).eigenvectors[:, -1]
    cosine = (first_component @ unread).abs()
    run.check("first principal component along the direction that nobody reads: cosine", cosine, above=0.99)
    run.check("directions of the interaction basis that carry it: largest correlation", seen.max(), below=0.2)
    outputs = nn.Sequential(first, second)(x).detach()
    gap = (found.ablate(x, "0", found.sizes["0"].numel()) - outputs).abs().max()
    run.check("outputs with the basis' directions alone − the outputs", gap, below=1e-8)


def modular_addition(run: Run, p: int = 29, steps: int = 2000) -> None:
    """A network that adds modulo p: how many directions of its first hidden layer are needed."""
    from matplotlib import pyplot

    table = irreps.cyclic_table(p)
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    x = torch.cat((F.one_hot(pairs[:, 0], p), F.one_hot(pairs[:, 1], p)), 1).float()
    labels = table[pairs[:, 0], pairs[:, 1]]
    rows, curves = [], {}
    for seed in run.progress(range(run.seed, run.seed + 3), "networks"):
        model = _network(seed, 2 * p, 128, 128, p).float()
        fit(model, (x, labels), lambda m, a, b: F.cross_entropy(m(a), b), steps=steps, batch_size=len(x), lr=3e-3,
            weight_decay=1.0, generator=run.generator(seed), show_progress=False)  # fmt: skip
        found = interaction_basis.LocalInteractionBasis(model, ["1", "3", "4"], threshold=1e-12).fit(x)
        need, curve = {}, {}
        for basis in ("interaction", "principal"):
            right = [
                float((found.ablate(x, "1", k, basis=basis).argmax(1) == labels).double().mean()) for k in range(1, 65)
            ]
            need[basis] = next((k for k, share in enumerate(right, 1) if share >= 0.9), 65)
            curve[basis] = right
        curves = curves or curve
        with torch.no_grad():
            accuracy = float((model(x).argmax(1) == labels).double().mean())
        rows.append({"seed": seed, "accuracy": accuracy, "interaction basis": need["interaction"],
                     "principal components": need["principal"]})  # fmt: skip
    run.table("modular addition", rows, f"Directions of the first hidden layer that keep 90% of the sums modulo {p} "
              "right; 65: more than 64.")  # fmt: skip
    run.check("accuracy of the networks, least", min(r["accuracy"] for r in rows), above=0.99)
    run.check("directions of the interaction basis for 90%, most", max(r["interaction basis"] for r in rows), below=12)
    ratio = min(r["principal components"] / r["interaction basis"] for r in rows)
    run.check("principal components needed over them, least", ratio, above=2.5)
    figure, axes = pyplot.subplots(figsize=(6.4, 3.4), layout="constrained")
    for name, style in (("interaction", "-"), ("principal", "--")):
        axes.plot(
            range(1, 65),
            curves[name],
            style,
            label=f"{name} basis" if name == "interaction" else "principal components",
        )
    axes.axhline(0.9, ls=":", color="C3")
    axes.set(xlabel="directions of the first hidden layer that are kept", ylabel="sums that are right")
    axes.legend()
    run.plot("modular addition", figure, f"A network that adds modulo {p}, with a few directions of its first layer.")


def experiment(run: Run) -> None:
    """What defines the basis, what it does not depend on, what it drops, and (full) modular addition."""
    what_defines_it(run)
    parametrization_does_not_matter(run)
    what_nobody_reads_is_dropped(run)
    if not run.quick:
        modular_addition(run)
    run.text(
        "what it shows",
        "The basis is fixed by what the network does, not by how its weights are written: mix a hidden layer and undo "
        "it, and the same features come out. A direction with most of the variance is dropped if nobody reads it; "
        "principal components put it first.",
    )
