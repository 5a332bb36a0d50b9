"""Not all features are lines: circles in language models, found and turned (Engels et al., 2024)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gramian import data, models
from gramian.analysis.explain import circle, multidim
from gramian.data.synthetic import circles
from gramian.lab import Card, Run
from gramian.nn.sparse import autoencoder
from gramian.optim.fit import fit

CARD = Card(
    title="Not All Language Model Features Are Linear",
    row=111,
    arxiv="2405.14860",
    year=2024,
    kind="method",
    idea="Group the directions of a sparse autoencoder, look at what each group writes, and score it by two indices: "
    "whether its plane falls apart into independent axes, and whether it is a mixture of lines. What is left are "
    "features of two dimensions, such as circles of days and months, which can be turned to change an answer.",
    claim="Language models hold circles of weekdays and months, and compute with them: turning the circle turns the "
    "answer.",
    keywords=(
        "sparse autoencoder",
        "dictionary learning",
        "circular features",
        "modular arithmetic",
        "days of the week",
        "separability index",
        "mixture index",
        "intervention",
    ),
    api=(
        "gramian.analysis.explain.multidim.cluster_decoder",
        "gramian.analysis.explain.multidim.rank_clusters",
        "gramian.analysis.explain.multidim.separability",
        "gramian.analysis.explain.multidim.mixture_index",
        "gramian.analysis.explain.circle.CircleProbe",
        "gramian.nn.sparse.autoencoder.SparseAutoencoder",
    ),
    use="codes = autoencoder.encode(states)\n"
    "best = rank_clusters(codes, autoencoder.decoder, cluster_decoder(autoencoder.decoder))[0]\n"
    "moved = CircleProbe(period=7).fit(states, days).move(states, (days + 1) % 7)",
    reach="autoencoders of GPT-2 and Mistral, and interventions on Mistral and Llama 3; SmolLM2-135M's states, planted "
    "circles and small adding networks stand in",
    differs=(
        "The mixture index is the optimum over a grid of directions and offsets; the paper ascends a smoothed version, "
        "which from one start can end where no point is.",
        "Planes whose second axis has under a tenth of the first's variance are not scored: the indices know no scale "
        "and took the slight bend of a line that two directions share for a circle.",
        "A state is turned along the circle that the states themselves follow; the paper writes through the inverse "
        "of the probe's reading, which with as few states as numbers is mostly noise.",
    ),
    needs=("language",),
    data=("smollm2_135m",),
)

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")  # fmt: skip
TEMPLATES = (
    "Today is", "See you next", "The shop is closed on", "He was born on a", "The meeting was moved to",
    "It rained all", "We will fly home on", "She called me last", "The exam takes place on", "They play every",
    "Rent is due on", "The party starts on",
)  # fmt: skip


def indices_tell_shapes_apart(run: Run, samples: int = 20_000) -> None:
    """A circle, two independent axes, and two lines that are never present together."""
    generator = run.generator()
    gauss = torch.randn(samples, 2, generator=generator)
    angles = 2 * math.pi * torch.rand(samples, generator=generator)
    ring = torch.stack((angles.cos(), angles.sin()), 1)
    first = (torch.rand(samples, 1, generator=generator) < 0.5).float()
    lines = torch.cat((first, 1 - first), 1) * torch.randn(samples, 1, generator=generator)
    shapes = {"independent axes": gauss, "circle": ring, "two lines": lines}
    rows = {
        name: (multidim.separability(points), multidim.mixture_index(points)) for name, points in shapes.items()
    }  # fmt: skip
    run.table("indices", [
        {"shape": name, "separability": s, "mixture": m, "(1 − mixture) · separability": (1 - m) * s}
        for name, (s, m) in rows.items()
    ], "bits left after the best rotation; share of points at one value of a direction")  # fmt: skip
    run.check("separability of independent axes", rows["independent axes"][0], below=0.01)
    run.check("mixture index of Gaussian axes", rows["independent axes"][1], between=(0.079, 0.095),
              paper="0.0797 for infinitely many samples")  # fmt: skip
    run.check("separability of a circle", rows["circle"][0], above=1.2)
    run.check("mixture index of a circle", rows["circle"][1], between=(0.207, 0.237))
    run.check("mixture index of two lines that exclude each other", rows["two lines"][1], above=0.45)
    turned = ring @ torch.linalg.qr(torch.randn(2, 2, generator=generator)).Q * 7 + 3
    run.check("mixture index of the circle turned, scaled and moved to its centre again (change)",
              abs(multidim.mixture_index(turned - 3) - rows["circle"][1]), below=0.01)  # fmt: skip
    _shapes(run, {k: v[:1500] for k, v in shapes.items()}, rows)


def _shapes(run: Run, shapes: dict[str, Tensor], rows: dict[str, tuple[float, float]]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(9, 3.1), layout="constrained")
    for axis, (name, points) in zip(axes, shapes.items(), strict=True):
        axis.plot(points[:, 0], points[:, 1], ".", markersize=2, alpha=0.5)
        axis.set_title(f"{name}\nS = {rows[name][0]:.2f}, M = {rows[name][1]:.2f}", fontsize=10)
        axis.set_aspect("equal", adjustable="datalim")
    run.plot("shapes", figure, "Only the circle is neither separable (S small) nor a mixture (M large).")


def _embeddings(words: tuple[str, ...], before: str) -> Tensor:
    """SmolLM2's input embeddings of words that are one token each; nothing else of the model is read."""
    from safetensors import safe_open

    tokenizer = models.tokenizer("smollm2-135m")
    ids = [tokenizer(before + word).input_ids for word in words]
    with safe_open(data.path("smollm2-135m") / "model.safetensors", "pt") as file:
        table = file.get_slice("model.embed_tokens.weight")
        return torch.cat([table[i[0] : i[0] + 1] for i in ids if len(i) == 1]).float()


def calendars_are_circles(run: Run) -> None:
    """The days and the months in SmolLM2's embeddings, in the plane of their first two components."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
    for axis, name, words in ((axes[0], "days", DAYS), (axes[1], "months", MONTHS)):
        for before, colour in ((" ", "C0"), ("", "C1")):
            points = _embeddings(words, before)
            broken = multidim.broken_neighbours(multidim.circular_order(points))
            label = "with a leading space" if before else "at the start of a text"
            if name == "days":
                run.check(f"days {label}: neighbours that are not days in succession", broken, equals=0,
                          paper="circles of days in GPT-2; by chance 1 of 360 orders")  # fmt: skip
            else:
                run.check(f"months {label}: neighbours that are not months in succession", broken, below=2)
            flat = (points - points.mean(0)) @ torch.linalg.svd(points - points.mean(0)).Vh[:2].T
            flat = flat / flat.norm(dim=1).mean()
            if before:
                axis.plot(*torch.cat((flat, flat[:1])).T, "-", color=colour, linewidth=1, alpha=0.4)
                axis.plot(*flat.T, "o", color=colour)
                for (x, y), word in zip(flat.tolist(), words, strict=True):
                    axis.annotate(word[:3], (x, y), textcoords="offset points", xytext=(5, 4), fontsize=9)
        axis.set(title=name, xlabel="first component", ylabel="second")
        axis.set_aspect("equal", adjustable="datalim")
        axis.margins(0.15)
    run.plot("calendar", figure, "SmolLM2's input embeddings: nothing but the order of two principal components.")


def days_stay_circles(run: Run) -> None:
    """The days in SmolLM2's states of every layer, averaged over sentences."""
    model, tokenizer = models.pretrained("smollm2-135m").model, models.tokenizer("smollm2-135m")
    assert isinstance(model, nn.Module)
    mean: Tensor | None = None
    for template in run.progress(TEMPLATES, "reading days"):
        ids = torch.tensor([tokenizer(f"{template} {day}").input_ids for day in DAYS])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
        last = torch.stack([s[:, -1] for s in states])
        mean = last if mean is None else mean + last
    assert mean is not None
    broken = [multidim.broken_neighbours(multidim.circular_order(points)) for points in mean]
    r2 = [circle.CircleProbe(7, 1, components=2).fit(points, torch.arange(7)).r2 for points in mean]
    run.table("days by layer", [{"layer": i, "broken neighbours": b, "R² of the circle in 2 components": r}
                                for i, (b, r) in enumerate(zip(broken, r2, strict=True))],
              "states at the day, averaged over 12 sentences")  # fmt: skip
    apart = [i for i, b in enumerate(broken) if b]
    run.check(f"layers of {len(broken)} in which the days stand in their order", len(broken) - len(apart), above=26,
              paper="circles in Mistral 7B and Llama 3 8B; chance is 1 of 360 a layer")  # fmt: skip
    run.text(
        "Days by layer",
        f"The days stand in their order in {len(broken) - len(apart)} of {len(broken)} layers; not in {apart or 'none'}"
        ", where the state turns from the word that was read to the one to be written.",
    )


def planted_circles_are_found(run: Run, samples: int = 8000, steps: int = 800) -> None:
    """A sparse autoencoder on sums of circles and lines: the groups that score highest are the circles."""
    generator = run.generator(1)
    planted = circles.circles_and_lines(samples, probability=0.06, generator=generator)
    model = autoencoder.SparseAutoencoder(planted.samples.shape[1], 32, generator)
    fit(model, (planted.samples,), lambda m, x: m.loss(x, 0.3), steps=steps, batch_size=256, lr=5e-3,
        schedule="cosine", generator=generator, show_progress=False)  # fmt: skip
    with torch.no_grad():
        codes, decoder = model.encode(planted.samples), model.decoder
    used = torch.nonzero((codes > 1e-6).float().mean(0) > 1e-3).flatten()
    codes, decoder = codes[:, used], decoder[used]
    groups = multidim.cluster_decoder(decoder)
    ranked = multidim.rank_clusters(codes, decoder, groups)
    rows = []
    for cluster in ranked:
        inside = torch.stack([(decoder[cluster.members] @ plane.T).square().sum(1).mean() for plane in planted.circles])
        rows.append({"directions": len(cluster.members), "plane": cluster.plane, "separability": cluster.separability,
                     "mixture": cluster.mixture, "score": cluster.score, "in a planted plane": float(inside.max()),
                     "which": int(inside.argmax())})  # fmt: skip
    run.table("groups", rows, f"{len(groups)} groups of an autoencoder's {len(used)} directions; 2 circles and 8 lines "
              "were planted; in a planted plane: how much of the members' length lies there")  # fmt: skip
    run.check("the group that scores highest: how much of its directions lies in a planted circle's plane",
              rows[0]["in a planted plane"] if rows else 0.0, above=0.9)  # fmt: skip
    if ranked:
        _group(run, ranked[0])


def _group(run: Run, cluster: multidim.Cluster) -> None:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(3.8, 3.6))
    axis.plot(cluster.points[:, 0], cluster.points[:, 1], ".", markersize=3)
    axis.set_aspect("equal", adjustable="datalim")
    axis.set(xlabel="first component", ylabel="second")
    run.plot("best group", figure, f"What the group of {len(cluster.members)} directions writes: a planted circle.")


class Adder(nn.Module):
    """(a, b) → logits of (a + b) mod p: one table of vectors, and products of linear readings of the two."""

    def __init__(self, period: int, width: int = 6, hidden: int = 6) -> None:
        super().__init__()
        self.table = nn.Embedding(period, width)
        self.left, self.right = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.head = nn.Linear(hidden, period)

    def forward(self, pairs: Tensor) -> Tensor:
        return self.answer(self.table(pairs[:, 0]), self.table(pairs[:, 1]))

    def answer(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head(self.left(first) * self.right(second))


def _adder(run: Run, period: int, steps: int) -> tuple[Adder, Tensor, Tensor]:
    pairs, answers = circles.modular_addition(period)
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        model = Adder(period)
    fit(model, (pairs, answers), lambda m, x, y: nn.functional.cross_entropy(m(x), y), steps=steps,
        batch_size=len(pairs), lr=3e-2, weight_decay=0.05, schedule="cosine", generator=run.generator(2),
        show_progress=False)  # fmt: skip
    return model.eval(), pairs, answers


def turning_circles_turns_answers(run: Run, period: int = 11, steps: int = 600) -> None:
    """A network that adds in a cycle: its circles are found, and turned by every step."""
    model, pairs, answers = _adder(run, period, steps)
    numbers, table = torch.arange(period), model.table.weight.detach()
    probes = [circle.CircleProbe(period, k).fit(table, numbers) for k in range(1, (period - 1) // 2 + 1)]
    probes.sort(key=lambda p: -p.share)

    def share_moved(used: list[circle.CircleProbe]) -> float:
        hits = 0.0
        with torch.no_grad():
            for step in range(1, period):
                first = model.table(pairs[:, 0])
                moved = first
                for probe in used:  # each turns its own circle; what is read off the untouched vector stays right
                    moved = moved + probe.move(first, (pairs[:, 0] + step) % period) - first
                found = model.answer(moved, model.table(pairs[:, 1])).argmax(1)
                hits += float((found == (answers + step) % period).double().mean())
        return hits / (period - 1)

    with torch.no_grad():
        accuracy = float((model(pairs).argmax(1) == answers).double().mean())
    rows: list[dict[str, Any]] = [
        {"circle": f"{p.frequency} times round", "share of variance": p.share, "answers moved": share_moved([p])}
        for p in probes
    ]
    both, rest = share_moved(probes[:2]), share_moved(probes[2:])
    for name, used, moved in (("the first two", probes[:2], both), ("all others", probes[2:], rest)):
        rows.append({"circle": name, "share of variance": sum(p.share for p in used), "answers moved": moved})
    run.table("circles of an adding network", rows, "answers moved: by the very step by which the circle was turned")
    run.check("the network's accuracy before", accuracy, above=0.99)
    run.check("answers moved by turning the two largest circles of five", both, above=0.9,
              paper="interventions on circles in Mistral 7B and Llama 3 8B move answers likewise")  # fmt: skip
    run.check("answers moved by turning the three others", rest, below=0.1)
    _adding(run, table, probes, numbers)


def _adding(run: Run, table: Tensor, probes: list[circle.CircleProbe], numbers: Tensor) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(7.6, 3.6), layout="constrained")
    for axis, probe in zip(axes, probes, strict=False):
        plane = torch.linalg.pinv(probe.write)
        flat = (table.double() - probe.mean) @ plane
        axis.plot(*flat.T, "o")
        for (x, y), number in zip(flat.tolist(), numbers.tolist(), strict=True):
            axis.annotate(str(number), (x, y), textcoords="offset points", xytext=(4, 4), fontsize=9)
        axis.set(title=f"{probe.frequency} times round: {100 * probe.share:.0f}% of the variance")
        axis.set_aspect("equal", adjustable="datalim")
        axis.margins(0.15)
    run.plot("adder", figure, "An adding network's vectors of 0 … 10 in the planes of its two largest circles.")
    run.text(
        "What it shows",
        "The weekdays stand in order around a circle in SmolLM2's embeddings, with no label used, the months nearly "
        "so. A small network that adds in a cycle spreads its numbers over a few circles; turning the two largest "
        "turns the answer by the same step, turning the rest does nothing.",
    )


def experiment(run: Run, *, period: int = 11) -> None:
    """The indices on known shapes, circles in SmolLM2, planted circles found, and circles turned.

    Args:
        period: of the addition that the small network learns.
    """
    indices_tell_shapes_apart(run)
    calendars_are_circles(run)
    if run.quick:
        turning_circles_turns_answers(run, period, 400)
        return
    turning_circles_turns_answers(run, period)
    planted_circles_are_found(run)
    days_stay_circles(run)
