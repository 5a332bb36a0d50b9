"""Iterative feature merging: how few channels a layer needs, without a look at data (Chen, Zhou & Yan, 2024)."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import data, models, optim
from gramian.lab import Card, Run
from gramian.models.vision import efficientnet_lite
from gramian.nn import fold
from gramian.surgery import merge_features
from gramian.surgery.adapters import transfer
from gramian.surgery.prune import channels

CARD = Card(
    title="Going Beyond Neural Network Feature Similarity: The Network Feature Complexity and Its Interpretation Using "
    "Category Theory",
    row=102,
    arxiv="2310.06756",
    year=2023,
    kind="method",
    idea="Two channels of a layer are equivalent if an invertible linear map turns one set of features into the other "
    "without a change of the answer. Merge the two channels whose weights in and out are closest, again and again, "
    "layer after layer: what is left measures the complexity of the layer's features.",
    claim="Many features of a network are functionally equivalent: they can be merged without data, and the network "
    "answers as before with fewer parameters.",
    keywords=("structured pruning", "data-free", "channel merging", "redundancy", "width", "weight clustering"),
    api=(
        "gramian.surgery.merge_features.iterative_merge",
        "gramian.surgery.merge_features.feature_complexity",
        "gramian.surgery.prune.channels.channel_groups",
    ),
    use="small, report = iterative_merge(fold_batch_norm(model, example), beta=0.05)\n"
    "report.after   # channels left in each group",
    reach="ResNet and VGG on CIFAR-10 and ImageNet",
    differs=(
        "The released code sums what writes a channel and averages what reads it; here the writers are averaged and "
        "the readers summed: equal for activations that scale with their input, and exact for duplicates under any.",
        "Biases count in the distance; the released code leaves vectors of one axis out. Of ResNet's first layers it "
        "merges none by name; here every group but inputs and outputs takes part.",
        "Normalizations are folded first, so that their scale is part of the weights.",
        "Found here: how much merges on digits depends on weight decay (1.5 with AdamW at 0.002; at 0.5 hardly any "
        "unit merges at β = 0.05).",
    ),
    data=("efficientnet_lite0", "imagenet_classes", "chelsea", "coffee", "digits"),
)


def _split(model: nn.Sequential, writer: int, reader: int, times: int, generator: torch.Generator) -> nn.Sequential:
    """The same function with more channels: some written again, the readers' weights shared out unevenly."""
    wide = copy.deepcopy(model)
    first, second = wide[writer], wide[reader]
    size = first.weight.shape[0]
    chosen = torch.randperm(size, generator=generator)[:times]
    repeat = second.weight.shape[1] // size
    share = 0.4 + 0.2 * torch.rand(times, generator=generator)
    with torch.no_grad():
        for name in ("weight", "bias"):
            old = getattr(first, name)
            setattr(first, name, nn.Parameter(torch.cat((old, old[chosen]))))
        read = second.weight.unflatten(1, (size, repeat))
        part = share.view(1, -1, 1, *[1] * (read.ndim - 3))
        taken = read[:, chosen] * part
        read = read.index_copy(1, chosen, read[:, chosen] * (1 - part))
        second.weight = nn.Parameter(torch.cat((read, taken), 1).flatten(1, 2))
    for layer in (first, second):
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        else:
            layer.out_channels, layer.in_channels = layer.weight.shape[:2]
    return wide


def _drawn(generator: torch.Generator, convolutions: bool) -> nn.Sequential:
    """An untrained network of known width."""
    if convolutions:
        model = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.Tanh(),
            nn.Flatten(), nn.Linear(16 * 16, 10),
        )  # fmt: skip
    else:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 30), nn.ReLU(),
                              nn.Linear(30, 10))  # fmt: skip
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (p[0].numel() if p.ndim > 1 else 10) ** -0.5)
    return model


def planted_copies(run: Run, beta: float = 0.05) -> None:
    """Networks widened by splitting channels: merging finds the original width, and the answer stays."""
    rows, widths, gaps = [], [], []
    for convolutions, layers in ((False, (1, 3, 5)), (True, (0, 2, 5))):
        generator = run.generator(int(convolutions))
        model = _drawn(generator, convolutions)
        wide = model
        for writer, reader in pairwise(layers):
            wide = _split(wide, writer, reader, 8, generator)
        x = torch.randn(30, 1, 8, 8, generator=generator)
        with torch.no_grad():
            answers = model(x)
            planted = float((wide(x) - answers).abs().max())
            narrow, report = merge_features.iterative_merge(wide, beta)
            gap = float((narrow(x) - answers).abs().max() / answers.abs().max())
        original = [g.size for g in channels.channel_groups(model)]
        widths.append(list(report.after.values()) == original)
        gaps.append(gap)
        rows.append({"network": "convolutions" if convolutions else "dense", "original": str(original),
                     "widened": str(list(report.before.values())), "merged": str(list(report.after.values())),
                     "answer changes by": gap, "widening changed it by": planted})  # fmt: skip
    run.table("planted copies", rows, f"Eight channels of each layer split unevenly; merged at β = {beta}.")
    run.check("widened networks that merge back to their original widths, of two", sum(widths), equals=2)
    run.check("… relative change of their answers, most", max(gaps), below=1e-5)


def closest_pair(run: Run) -> None:
    """Which two channels go first, against all pairs one by one."""
    right = 0
    for stream in range(6):
        model = _drawn(run.generator(20 + stream), stream % 2 == 1)
        group = channels.channel_groups(model)[0]
        own = dict(model.named_parameters())
        vectors = []
        for channel in range(group.size):
            parts = []
            for member in group.members:
                split = own[member.name].detach().unflatten(member.axis, (group.size, member.repeat))
                parts.append(split.select(member.axis, channel).flatten().double())
            vectors.append(torch.cat(parts))
        best = min((float((vectors[i] - vectors[j]).square().sum()), i, j)
                   for i in range(group.size) for j in range(i + 1, group.size))  # fmt: skip
        one = merge_features.iterative_merge(model, 0.99, max_ratio=1.5 / group.size, groups=[group])[1]
        right += any(set(cluster) == {best[1], best[2]} for cluster in one.clusters[group.name])
    run.check("networks whose first merge is that of the closest of all pairs, of six", right, equals=6)


def _digits_network(seed: int, digits: transfer.Digits, steps: int, decay: float = 1.5) -> nn.Sequential:
    model = transfer.mlp(seed, (64, 256, 256, 10))
    optim.fit(
        model, (digits.train, digits.train_labels), lambda module, x, y: F.cross_entropy(module(x), y), steps=steps,
        lr=2e-3, weight_decay=decay, batch_size=64, generator=torch.Generator().manual_seed(seed), show_progress=False,
    )  # fmt: skip
    return model


def _without(model: nn.Sequential, kept: dict[str, Tensor]) -> nn.Sequential:
    """The network with all but some channels of each group silenced."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, keep in kept.items():
            layer: Any = other.get_submodule(name)
            mask = torch.zeros(layer.weight.shape[0])
            mask[keep] = 1
            layer.weight.mul_(mask[:, None])
            layer.bias.mul_(mask)
    return other


def digits_merge(run: Run, steps: int = 400, seeds: int = 1) -> None:
    """A network for digits, trained with weight decay: width left at several β, beside random pruning."""
    from matplotlib import pyplot

    digits = transfer.load_digits()
    betas = (0.0, 0.02, 0.05, 0.1, 0.2)
    rows, gated = [], []
    for seed in range(run.seed, run.seed + seeds):
        model = _digits_network(seed, digits, steps)
        start = transfer.accuracy(model, digits.test, digits.test_labels)
        generator = torch.Generator().manual_seed(seed)
        for beta in betas:
            narrow, report = merge_features.iterative_merge(model, beta)
            left = list(report.after.values())
            pruned = [
                transfer.accuracy(
                    _without(model, {n: torch.randperm(256, generator=generator)[:k] for n, k in report.after.items()}),
                    digits.test, digits.test_labels,
                ) for _ in range(5)
            ]  # fmt: skip
            row = {"seed": seed, "β": beta, "first layer": left[0], "second layer": left[1],
                   "parameters": report.parameters[1] / report.parameters[0], "accuracy before": start,
                   "accuracy": transfer.accuracy(narrow, digits.test, digits.test_labels),
                   "random pruning to the same widths": float(np.mean(pruned))}  # fmt: skip
            rows.append(row)
            if beta == 0.05:
                gated.append(row)
    run.table("digits", rows, "64-256-256-10 with AdamW and weight decay 1.5. parameters: share that is left; random "
              "pruning: mean of five.")  # fmt: skip
    run.check("β = 0.05: units of the first hidden layer left of 256, most", max(r["first layer"] for r in gated),
              below=180)  # fmt: skip
    run.check("β = 0.05: units of the second hidden layer left of 256, most", max(r["second layer"] for r in gated),
              below=210)  # fmt: skip
    run.check("β = 0.05: loss of accuracy, in points, most",
              max(100 * (r["accuracy before"] - r["accuracy"]) for r in gated), below=4.0,
              paper="networks shrink almost without losing accuracy, on CIFAR-10 and ImageNet")  # fmt: skip
    gains = [100 * (r["accuracy"] - r["random pruning to the same widths"]) for r in rows if r["β"] == 0.1]
    run.check("β = 0.1: accuracy above random pruning to the same widths, in points, least", min(gains), above=15.0)
    widths = [[r["first layer"] + r["second layer"] for r in rows if r["seed"] == s]
              for s in range(run.seed, run.seed + seeds)]  # fmt: skip
    rises = sum(b > a for w in widths for a, b in pairwise(w))
    run.check("steps of β at which more units are left than before", rises, equals=0)
    first = rows[: len(betas)]
    figure, panels = pyplot.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    places = range(len(betas))
    for name in ("first layer", "second layer"):
        panels[0].plot(places, [r[name] for r in first], "o-", label=name)
    panels[0].set(ylabel="units left of 256", ylim=(0, 265))
    panels[1].plot(places, [r["accuracy"] for r in first], "o-", label="merged")
    panels[1].plot(places, [r["random pruning to the same widths"] for r in first], "o--", label="pruned at random")
    panels[1].set(ylabel="test accuracy")
    for panel in panels:
        panel.set_xticks(list(places), [f"{b:g}" for b in betas])
        panel.set_xlabel("β")
        panel.legend()
    run.plot("digits", figure, "How complex the features of a network for digits are, and what merging costs.")


def photographs(run: Run, betas: tuple[float, ...] = (0.005, 0.01, 0.02)) -> None:
    """EfficientNet-Lite0: what can be merged before the answers change."""
    model = models.pretrained("efficientnet-lite0")
    classes = data.load("imagenet_classes")
    x = torch.stack([efficientnet_lite.preprocess(np.asarray(data.load(n).pixels)) for n in ("chelsea", "coffee")])
    folded = fold.fold_batch_norm(model, x[:1])
    groups = channels.channel_groups(folded)
    with torch.no_grad():
        before = model(x).softmax(1)
    rows, same = [], {}
    for beta in run.progress(betas, "β"):
        narrow, report = merge_features.iterative_merge(folded, beta, groups=groups)
        with torch.no_grad():
            after = narrow(x).softmax(1)
        same[beta] = int((after.argmax(1) == before.argmax(1)).sum())
        rows.append({"β": beta, "channels left": sum(report.after.values()), "of": sum(report.before.values()),
                     "parameters left": report.parameters[1] / report.parameters[0],
                     "answers": ", ".join(classes[int(k)].split(",")[0] for k in after.argmax(1)),
                     "probabilities": ", ".join(f"{float(p):.2f}" for p in after.amax(1))})  # fmt: skip
    run.table("EfficientNet-Lite0", rows, "Answers for a cat and a cup of espresso; before: "
              + ", ".join(f"{classes[int(k)].split(',')[0]} ({float(p):.2f})"
                          for k, p in zip(before.argmax(1), before.amax(1), strict=True)) + ".")  # fmt: skip
    run.check("EfficientNet-Lite0 at β = 0.01: answers that stay, of two", same[0.01], equals=2)
    run.check("… share of its channels that merge at β = 0.01, in percent",
              100 * (1 - rows[betas.index(0.01)]["channels left"] / rows[0]["of"]), above=1.0)  # fmt: skip


def experiment(run: Run, *, seeds: int = 3) -> None:
    """Planted copies, the choice of the pair, a network for digits, and EfficientNet-Lite0.

    Args:
        seeds: networks trained on digits (full only).
    """
    planted_copies(run)
    closest_pair(run)
    digits_merge(run, seeds=1 if run.quick else seeds)
    if not run.quick:
        photographs(run)
    run.text(
        "merging",
        "Merging keeps what pruning loses: the channel that goes is added to the one that stays. How far it carries "
        "depends on the training: weight decay makes units alike, and without much of it few merge.",
    )
