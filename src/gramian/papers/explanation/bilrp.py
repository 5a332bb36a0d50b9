"""BiLRP: which pairs of pixels make two pictures similar for a deep network (Eberle et al., 2020)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import data, models
from gramian.analysis.explain import bilrp, relevance
from gramian.lab import Card, Run
from gramian.models.vision import efficientnet_lite
from gramian.nn import fold

CARD = Card(
    title="Building and Interpreting Deep Similarity Models",
    row=110,
    arxiv="2003.05431",
    year=2020,
    kind="method",
    idea="The similarity of two embeddings is bilinear: propagate relevance once for each entry of the embedding on "
    "either side and multiply out. What comes is a table of the pairs of pixels that make two pictures similar.",
    claim="BiLRP decomposes a similarity into pairs of features that sum to it, and shows what a model rests on.",
    keywords=("explain similarity", "image retrieval", "LRP", "gamma rule", "second order", "Hessian"),
    api=(
        "gramian.analysis.explain.bilrp.bilrp",
        "gramian.analysis.explain.bilrp.embedding_relevance",
        "gramian.analysis.explain.relevance.Rule",
        "gramian.analysis.explain.relevance.lrp",
        "gramian.nn.fold.fold_batch_norm",
    ),
    use="phi = fold_batch_norm(features, x)\n"
    "found = bilrp(phi, x, other, {'*': Rule.gamma(0.1)}, pool=pool_cells(16), project=32)\n"
    "found.top(5)   # the pairs of cells that make the two pictures similar",
    reach="VGG-16 and the historical tables of the paper are not here; EfficientNet-Lite0 with pasted photographs and "
    "small networks stand in",
    differs=(
        "Rules are written as gradients of a changed forward pass; relevances equal zennit's.",
        "Entries of the embedding are handed back in batches; a picture's side is worked out once for many pairs.",
        "Found here: with the biases of folded batch normalization and clipping units the table of EfficientNet-Lite0 "
        "does not sum to the similarity; it is read for its order.",
    ),
    data=("efficientnet_lite0", "chelsea", "coffee", "gravel", "grass", "brick"),
)

SIDE, OBJECT, CELL = 128, 56, 16


def _network(generator: torch.Generator) -> nn.Sequential:
    """ReLU, pooling and no biases, drawn."""
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 2, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(4, 6, bias=False), nn.ReLU(),
    ).double()  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) + 0.2)
    return net.eval()


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


def decomposes(run: Run) -> None:
    """Against closed forms: linear maps, second derivatives, sums, swaps."""
    generator = run.generator()
    linear = nn.Linear(7, 4, bias=False).double().eval()
    with torch.no_grad():
        linear.weight.copy_(torch.randn(4, 7, generator=generator, dtype=torch.float64))
    x, other = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(2))
    wanted = x[:, None] * other * (linear.weight.T @ linear.weight)
    run.check("linear map A: table against x_i x'_j (AᵀA)_ij (relative)",
              _distance(bilrp.bilrp(linear, x, other).matrix(), wanted), below=1e-6)  # fmt: skip
    net = _network(generator)
    first, second = (torch.rand(1, 2, 6, 6, generator=generator, dtype=torch.float64) for _ in range(2))

    def similarity(u: Tensor, v: Tensor) -> Tensor:
        return (net(u) * net(v)).sum()

    second_derivative: Any = torch.autograd.functional.hessian(similarity, (first, second))
    wanted = first.view(-1, 1) * second.view(1, -1) * second_derivative[0][1].view(72, 72)
    found = bilrp.bilrp(net, first, second)
    run.check("ReLU network: table against the mixed second derivative times both inputs (relative)",
              _distance(found.matrix(), wanted), below=1e-5)  # fmt: skip
    for gamma in (0.0, 0.1, 0.5):
        rules = {"*": relevance.Rule.gamma(gamma)}
        table = bilrp.bilrp(net, first, second, rules).matrix()
        y = float(similarity(first, second).detach())
        run.check(f"γ = {gamma}: sum of the table against the similarity (relative)", abs(float(table.sum()) / y - 1),
                  below=1e-5)  # fmt: skip
    swapped = bilrp.bilrp(net, second, first, rules).matrix()
    run.check("inputs swapped: table against the transpose (relative)", _distance(swapped, table.T), below=1e-9)
    moved = _distance(table, found.matrix())
    run.check("γ = 0.5 against γ = 0: change of the table (relative)", moved, above=0.05)


def rules_hand_back(run: Run) -> None:
    """The rules against relevance handed back by hand, layer by layer."""
    generator = run.generator(1)
    one, two = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((9, 6), (5, 9)))
    net = nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 5, bias=False)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(one)
        net[2].weight.copy_(two)
    x = torch.rand(1, 6, generator=generator, dtype=torch.float64)
    hidden = (x @ one.T).relu()
    worst = 0.0
    gamma, low, high = 0.25, 0.0, 1.0
    found, _ = bilrp.embedding_relevance(
        net, x, {"0": relevance.Rule.zbox(low, high), "2": relevance.Rule.gamma(gamma)}
    )
    for k in range(5):
        out = float(hidden[0] @ two[k])
        # a negative output is explained by what is negative
        raised = two[k] + gamma * (two[k].clamp(min=0) if out > 0 else two[k].clamp(max=0))
        part = hidden[0] * raised
        middle = part / part.sum() * out
        shares = x[0] * one - low * one.clamp(min=0) - high * one.clamp(max=0)
        wanted = (shares / shares.sum(1, keepdim=True) * middle[:, None]).sum(0)
        worst = max(worst, float((found[k] - wanted).abs().max() / wanted.abs().max()))
    run.check("rules γ and z-box against relevance handed back by hand (relative)", worst, below=1e-5,
              paper="zennit's relevances are equal, see the tests")  # fmt: skip


class Tagged(nn.Module):
    """Two embeddings side by side: of the digit, and of the tag in the corner, each weighted."""

    def __init__(self, digit: nn.Module, tag_weight: float) -> None:
        super().__init__()
        self.digit, self.tag_weight = digit, tag_weight
        self.tag = nn.Linear(4, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inside, corner = x[:, :, :8], x[:, :, 8:, :4]
        tag = self.tag(corner.flatten(1)).relu()
        return torch.cat([(1 - self.tag_weight) * self.digit(inside), self.tag_weight * tag], 1)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.tensor(digits.images / 16, dtype=torch.float32)[:, None], torch.tensor(digits.target)


def shows_a_cheat(run: Run, pairs: int = 20, epochs: int = 6) -> None:
    """A similarity that rests on a tag in the corner, and an honest one: whose relevance lies on the tags?"""
    from gramian import optim

    images, labels = _digits()
    generator = run.generator(2)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(144, 32, bias=False), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.copy_((2 / max(1, p[0].numel())) ** 0.5 * torch.randn(p.shape, generator=generator))
    optim.fit(net, (images, labels), lambda m, x, y: F.cross_entropy(m(x), y), epochs=epochs, batch_size=64, lr=2e-3,
              generator=generator, show_progress=False)  # fmt: skip
    tag = torch.tensor([1.0, 0.5, 1.0, 0.5])
    shares, maps = {}, {}
    for name, weight in (("cheating", 0.97), ("honest", 0.03)):
        phi = Tagged(net[:-1], weight).eval()
        with torch.no_grad():
            phi.tag.weight.copy_(torch.randn(16, 4, generator=run.generator(3)))
        found = []
        for k in range(pairs):
            chosen = (labels == k % 10).nonzero().flatten()[torch.randint(150, (2,), generator=generator)]
            x = torch.zeros(2, 1, 9, 8)
            x[:, :, :8], x[:, 0, 8, :4] = images[chosen], tag
            table = bilrp.bilrp(phi, x[:1], x[1:], {"digit.*": relevance.Rule.gamma(0.1)}).matrix()
            maps[name] = (x[0, 0], table.sum(1).view(9, 8))
            table = table.clamp(min=0)
            found.append(float(table[64:, 64:].sum() / table.sum()))
        shares[name] = sum(found) / pairs
    run.table("cheat", [{"similarity": n, "positive relevance on tag with tag": v} for n, v in shares.items()],
              "Two digits of a class with the same tag in the corner.")  # fmt: skip
    _maps(run, maps)
    run.check("cheating similarity: positive relevance that links tag with tag", shares["cheating"], above=0.8)
    run.check("honest similarity: positive relevance that links tag with tag", shares["honest"], below=0.2,
              paper="brings out what a similarity model rests on")  # fmt: skip


def _maps(run: Run, maps: dict[str, tuple[Tensor, Tensor]]) -> None:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 1 + len(maps), figsize=(2.6 * (1 + len(maps)), 3.1))
    for panel, (name, (picture, part)) in zip(panels[1:], maps.items()):
        limit = float(part.abs().max())
        panels[0].imshow(picture, cmap="gray_r")
        panel.imshow(part, cmap="RdBu_r", vmin=-limit, vmax=limit)
        panel.set_title(f"{name} similarity", fontsize=9)
    panels[0].set_title("a digit and its tag", fontsize=9)
    for panel in panels:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(False)
    run.plot("cheat", figure, "What of a picture speaks for its likeness to another (red), summed over the other.")


class Features(nn.Module):
    """The last feature maps of a classifier, averaged over space."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        found: Any = self.model
        return found.levels(x)[-1].mean((2, 3))


RULES = {"model._conv_stem": (-127 / 128, 1.0), "model._blocks.?.*": 0.25, "model._blocks.1?.*": 0.1}
"""Pixels lie in the box; γ falls with depth, and ends before the head."""


def _composite() -> dict[str, relevance.Rule]:
    return {n: relevance.Rule.zbox(*v) if isinstance(v, tuple) else relevance.Rule.gamma(v) for n, v in RULES.items()}


def _scene(rng: np.random.Generator, name: str, ground: str) -> tuple[np.ndarray, tuple[int, int]]:
    """A small photograph at a drawn place of a texture."""
    from PIL import Image

    texture, pixels = np.asarray(data.load(ground).pixels), np.asarray(data.load(name).pixels)
    y, x = rng.integers(0, texture.shape[0] - SIDE, 2)
    canvas = np.repeat(texture[y : y + SIDE, x : x + SIDE, None], 3, 2).copy()
    short = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - short) // 2, (pixels.shape[1] - short) // 2
    square = Image.fromarray(np.ascontiguousarray(pixels[top : top + short, left : left + short]))
    y, x = (int(v) for v in rng.integers(0, SIDE - OBJECT, 2))
    canvas[y : y + OBJECT, x : x + OBJECT] = np.array(square.resize((OBJECT, OBJECT), Image.Resampling.BICUBIC))
    return canvas, (y, x)


def _inside(corner: tuple[int, int]) -> Tensor:
    """Which cells' middles lie on the object."""
    middle = torch.arange(SIDE // CELL) * CELL + CELL // 2
    rows, columns = ((middle >= c) & (middle < c + OBJECT) for c in corner)
    return (rows[:, None] & columns).flatten()


def links_what_is_shared(
    run: Run, grounds: tuple[str, ...] = ("gravel", "grass", "brick", "gravel"), directions: int = 8
) -> None:
    """EfficientNet-Lite0 on pictures that share a pasted photograph: do the strongest cells link it?"""
    model = Features(models.pretrained("efficientnet-lite0")).eval()
    example = torch.rand(1, 3, SIDE, SIDE, generator=run.generator(4))
    phi = fold.fold_batch_norm(model, example)
    rng = run.rng()
    seeds = bilrp.random_directions(directions, 1280, run.generator(5))
    hits, total, shares, kept = 0, 0, [], []
    for name in ("chelsea", "coffee"):
        sides = []
        for ground in run.progress(grounds, f"pictures with {name}"):
            picture, corner = _scene(rng, name, ground)
            x = efficientnet_lite.standardize(torch.from_numpy(picture).float()).permute(2, 0, 1)[None]
            factor, entries = bilrp.embedding_relevance(
                phi, x, _composite(), directions=seeds, pool=bilrp.pool_cells(CELL)
            )
            sides.append((picture, corner, factor, entries))
        for one, two in itertools.combinations(sides, 2):
            found = bilrp.BiRelevance(one[2], two[2], one[3] @ two[3])
            here, there = _inside(one[1]), _inside(two[1])
            i, j, _ = found.top()[0]
            hits += bool(here[i]) and bool(there[j])
            total += 1
            positive = found.matrix().clamp(min=0)
            shares.append(float(positive[here][:, there].sum() / positive.sum()))
            kept.append((one, two, found))
    chance = float(_inside((20, 20)).float().mean()) ** 2
    run.table("links", [{"pairs": total, "strongest cells on both objects": hits,
                         "positive relevance that links the objects": sum(shares) / total, "by area": chance}],
              f"Pictures of {SIDE} pixels that share a photograph of {OBJECT}; {directions} directions of the 1,280 "
              "entries of the embedding.")  # fmt: skip
    run.check(f"strongest pair of cells links both objects, of {total}", hits, above=-(-8 * total // 10))
    run.check("positive relevance that links the objects", sum(shares) / total, above=0.4)
    _picture(run, [kept[0], kept[-1]])


def _picture(run: Run, kept: list[Any]) -> None:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(kept), 1, figsize=(6, 3 * len(kept)), squeeze=False)
    count = SIDE // CELL
    for panel, (one, two, found) in zip(panels[:, 0], kept):
        panel.imshow(np.concatenate([one[0], np.full((SIDE, 24, 3), 200, np.uint8), two[0]], 1))
        strongest = found.top(12)
        for i, j, value in strongest:
            (y, x), (v, u) = (((c // count) * CELL + CELL / 2, (c % count) * CELL + CELL / 2) for c in (i, j))
            panel.plot([x, u + SIDE + 24], [y, v], color="C5", linewidth=3 * value / strongest[0][2], alpha=0.8)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(False)
    run.plot("links", figure, "The twelve pairs of cells that make two pictures similar for EfficientNet-Lite0.")


def experiment(run: Run, *, directions: int = 8) -> None:
    """Closed forms and rules, a planted cheat, and (full) pictures that share an object.

    Args:
        directions: random directions of the embedding (full only).
    """
    decomposes(run)
    rules_hand_back(run)
    shows_a_cheat(run, pairs=5 if run.quick else 20, epochs=2 if run.quick else 6)
    if not run.quick:
        links_what_is_shared(run, directions=directions)
    run.text(
        "pairs",
        "The table says which part of one picture speaks for its likeness to which part of the other: a tag in the "
        "corner that makes everything similar is seen at once.",
    )
