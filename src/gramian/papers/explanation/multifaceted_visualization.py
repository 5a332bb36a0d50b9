"""Multifaceted feature visualization: one synthetic picture for each kind of picture a unit answers to (2016)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import data, models, optim
from gramian.analysis.explain import facets, maximize
from gramian.lab import Card, Run
from gramian.models.vision import efficientnet_lite

CARD = Card(
    title="Multifaceted Feature Visualization: Uncovering the Different Types of Features Learned By Each Neuron in "
    "Deep Neural Networks",
    row=205,
    arxiv="1602.03616",
    year=2016,
    kind="method",
    idea="A unit may answer to several kinds of pictures. Group the pictures that it answers to by what a late layer "
    "makes of them, and climb its activation once from the mean picture of each group: one synthetic picture a facet, "
    "where a single ascent would show one of them or a mixture.",
    claim="Starting from the mean of each group uncovers the different facets of a unit, and regularizers that build "
    "a picture from its middle make it readable.",
    keywords=(
        "activation maximization",
        "feature visualization",
        "what does a neuron see",
        "t-SNE",
        "k-means",
        "total variation",
        "center bias",
    ),
    api=(
        "gramian.analysis.explain.facets.MultifacetedVisualizer",
        "gramian.analysis.explain.facets.facets",
        "gramian.analysis.explain.maximize.maximize",
        "gramian.analysis.explain.maximize.Prior",
    ),
    use='found = MultifacetedVisualizer(model, "_fc", 285, codes="_bn1").fit(pictures, k=3)\n'
    "found.images   # (facets, channels, height, width)",
    reach="facets of AlexNet's 1000 classes on ImageNet's pictures, and readability judged by eye",
    differs=(
        "The schedules of blur and of the centre's window and the step of fixed length are ours; the paper tunes its "
        "own rates and iterations per layer.",
        "The facets of a class of EfficientNet-Lite0 are those of crops of one photograph: ImageNet is not here.",
    ),
    data=("efficientnet_lite0", "imagenet_classes", "chelsea", "coffee", "astronaut", "flower", "digits"),
)

CAT = 285  # "Egyptian cat" among ImageNet's classes
SIDE = 128


def finds_the_maximum(run: Run) -> None:
    """A linear unit in a ball: the answer is known."""
    generator = run.generator()
    layer = nn.Linear(3 * 9 * 9, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        layer.bias.zero_()
    model = nn.Sequential(nn.Flatten(), layer)
    start = torch.randn(3, 3, 9, 9, generator=generator)
    found = maximize.maximize(
        model, maximize.unit_activation(model, "", 0), start, steps=150, rate=2.0, prior=maximize.Prior(ball=5.0)
    )
    wanted = F.normalize(layer.weight.detach()[0], dim=0)
    cosines = F.normalize(found.images.flatten(1), dim=1) @ wanted
    run.check("linear unit in a ball: least cosine with w/‖w‖, of three starts", cosines.min(), above=0.999)
    gap = (found.activations / (5 * layer.weight.detach().norm()) - 1).abs().max()
    run.check("… and its activation against radius · ‖w‖ (relative)", gap, below=1e-3)
    # a smooth picture instead: the same unit with a weight on total variation
    smooth = maximize.maximize(
        model, maximize.unit_activation(model, "", 0), start, steps=150, rate=2.0,
        prior=maximize.Prior(ball=5.0, smoothness=200.0),
    )  # fmt: skip
    ratio = (maximize.total_variation(smooth.images) / maximize.total_variation(found.images)).max()
    run.check("total variation with smoothness over that without, largest", ratio, below=0.25)


class Largest(nn.Module):
    """The largest of its inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(1, keepdim=True)


def _planted(generator: torch.Generator, side: int, count: int, noise: float) -> tuple[nn.Module, Tensor, Tensor]:
    """A unit that answers to any of four templates; noisy pictures of them; the templates."""
    rough = torch.randn(4, 1, 4, 4, generator=generator)
    smooth = F.interpolate(rough, size=(side, side), mode="bicubic", align_corners=False).flatten(1)
    templates = torch.linalg.qr((smooth - smooth.mean(1, keepdim=True)).T).Q.T
    layer = nn.Linear(side * side, 4, bias=False)
    strengths = 0.8 + 0.2 * torch.rand(4, 1, generator=generator)
    with torch.no_grad():
        layer.weight.copy_(strengths * templates)
    images = templates.repeat_interleave(count, 0).view(-1, 1, side, side)
    images = images + noise * torch.randn(images.shape, generator=generator)
    order = torch.randperm(len(images), generator=generator)
    return nn.Sequential(nn.Flatten(), layer, Largest()), images[order], templates


def planted_facets(run: Run, count: int = 40) -> None:
    """Four templates behind one unit: four facets, and what one start finds."""
    from matplotlib import pyplot

    side = 12
    generator = run.generator(1)
    model, images, templates = _planted(generator, side, count, 0.2)
    viewer = facets.MultifacetedVisualizer(model, "", 0, codes="1")
    prior = maximize.Prior(ball=1.0)
    found = viewer.fit(images, 4, steps=60, rate=0.2, prior=prior, seed=run.seed)

    def read(pictures: Tensor) -> tuple[Tensor, int]:
        cosines = F.normalize(pictures.flatten(1), dim=1) @ templates.T
        best = cosines.max(1)
        return best.values, len(best.indices.unique())

    values, distinct = read(found.images)
    run.check("templates found by four facets, of four", distinct, equals=4)
    run.check("… least correlation of a picture with its template", values.min(), above=0.95)
    begun = read(found.starts)[0]
    rows: list[dict[str, Any]] = [{"starts": "means of the facets", "templates found": distinct,
                                   "least correlation": float(values.min()),
                                   "correlation of the starts": float(begun.min())}]  # fmt: skip
    mean = images.mean(0, keepdim=True).repeat(4, 1, 1, 1)
    kicked = mean + 0.01 * torch.randn(mean.shape, generator=generator)
    for name, starts in (("mean of all, four times with a little noise", kicked),
                         ("noise", torch.randn(mean.shape, generator=generator))):  # fmt: skip
        other = maximize.maximize(model, viewer.score, starts, steps=60, rate=0.2, prior=prior)
        worst, kinds = read(other.images)
        rows.append({"starts": name, "templates found": kinds, "least correlation": float(worst.min()),
                     "correlation of the starts": float(read(starts)[0].min())})  # fmt: skip
    run.check("templates found without facets, from the mean of all", rows[1]["templates found"], below=2,
              paper="optimizing without facets shows one of them, or an inappropriate mix")  # fmt: skip
    run.table("planted", rows, "A unit that is the largest of four template matches; four ascents each.")
    figure, panels = pyplot.subplots(3, 4, figsize=(6.4, 4.9), layout="constrained")
    matched = (F.normalize(found.images.flatten(1), dim=1) @ templates.T).argmax(1)
    lines = (
        ("start", found.starts),
        ("picture", found.images),
        ("template", templates[matched].unflatten(1, (1, side, side))),
    )
    for line, (name, pictures) in zip(panels, lines, strict=True):
        for panel, picture in zip(line, pictures, strict=True):
            _show(panel, picture)
        line[0].set_ylabel(name)
    run.plot("planted", figure, "Where each facet's ascent starts, where it ends, and the template it found.")


def _show(panel: Any, picture: Tensor) -> None:
    if len(picture) == 3:
        panel.imshow(((picture * 128 + 127) / 255).clamp(0, 1).permute(1, 2, 0).numpy())
    else:
        panel.imshow(picture[0].numpy(), cmap="magma")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.grid(False)


def _even_network(seed: int, x: Tensor, labels: Tensor) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1)
        )
    even = (labels % 2 == 0).float()
    optim.fit(
        model, (x, even), lambda module, a, b: F.binary_cross_entropy_with_logits(module(a)[:, 0], b), steps=400,
        lr=2e-3, generator=torch.Generator().manual_seed(seed), show_progress=False,
    )  # fmt: skip
    return model


def even_digits(run: Run, seeds: int = 2) -> None:
    """A unit trained to answer to even digits: its facets are digits, as a classifier of its own sees them."""
    from matplotlib import pyplot
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    raw, names = load_digits(return_X_y=True)
    x, labels = torch.tensor(raw / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(names)
    judge = KNeighborsClassifier(5).fit(raw / 16, names)
    prior = maximize.Prior(smoothness=5.0, centre=0.5, bounds=(0.0, 1.0))
    rows, shown = [], None
    for seed in run.progress(range(run.seed, run.seed + seeds), "networks"):
        model = _even_network(seed, x, labels)
        viewer = facets.MultifacetedVisualizer(model, "", 0, codes="4")
        even = x[labels % 2 == 0][:500]
        found = viewer.fit(even, 10, steps=80, rate=0.1, prior=prior, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        mean = even.mean(0, keepdim=True).repeat(10, 1, 1, 1)
        mean = mean + 0.05 * torch.randn(mean.shape, generator=generator)
        plain = maximize.maximize(model, viewer.score, mean, steps=80, rate=0.1, prior=prior)
        real = viewer.look(x)[0].quantile(0.95)
        digits, without = (judge.predict(p.flatten(1).numpy()) for p in (found.images, plain.images))
        rows.append({"seed": seed, "digits of the facets": ", ".join(map(str, digits)),
                     "distinct": len(set(digits)), "without facets": ", ".join(map(str, without)),
                     "distinct without": len(set(without)),
                     "least activation over the 95th percentile": float(found.activations.min() / real)})  # fmt: skip
        shown = shown or (found, digits, plain)
    run.table("even digits", rows, "Ten ascents each, from the facets' means and from the mean of all even digits "
              "with a little noise; named by a nearest-neighbour classifier on pixels.")  # fmt: skip
    run.check("distinct digits among ten facets of the even unit, least", min(r["distinct"] for r in rows), above=4)
    run.check("… more of them than without facets, least", min(r["distinct"] - r["distinct without"] for r in rows),
              above=2)  # fmt: skip
    run.check("… least activation of a facet's picture over the 95th percentile of real digits",
              min(r["least activation over the 95th percentile"] for r in rows), above=1.0)  # fmt: skip
    assert shown is not None
    found, digits, plain = shown
    figure, panels = pyplot.subplots(3, 10, figsize=(10, 3.4), layout="constrained")
    for line, (name, pictures) in zip(panels, (("start", found.starts), ("facet", found.images),
                                               ("no facets", plain.images)), strict=True):  # fmt: skip
        for panel, picture in zip(line, pictures, strict=True):
            _show(panel, picture)
        line[0].set_ylabel(name)
    for panel, digit in zip(panels[1], digits, strict=True):
        panel.set_title(f"seen as {digit}", fontsize=8)
    run.plot("even digits", figure, "A unit trained on even against odd digits, and what it answers to most.")


def _crops(rng: np.random.Generator, cat: int, others: int) -> Tensor:
    """Square parts of a photograph of a cat, and of pictures without one."""
    found = []
    for name in ("chelsea", "coffee", "astronaut", "flower"):
        pixels = np.asarray(data.load(name).pixels)
        for _ in range(cat if name == "chelsea" else others):
            size = int(rng.integers(100, min(pixels.shape[:2]) + 1))
            y, x = (int(rng.integers(0, pixels.shape[k] - size + 1)) for k in (0, 1))
            part = np.ascontiguousarray(pixels[y : y + size, x : x + size])
            found.append(efficientnet_lite.preprocess(part, crop=False, size=SIDE))
    return torch.stack(found)


def egyptian_cat(run: Run, crops: int = 64, steps: int = 30) -> None:
    """The class of cats in EfficientNet-Lite0: from noise with and without the prior, and facets of a photograph."""
    from matplotlib import pyplot

    model = models.pretrained("efficientnet-lite0")
    classes = data.load("imagenet_classes")
    viewer = facets.MultifacetedVisualizer(model, "_fc", CAT, codes="_bn1")
    low, high = (float(v) for v in efficientnet_lite.standardize(torch.tensor([0.0, 255.0])))
    bounds = (low, high)
    start = 0.05 * torch.randn(1, 3, SIDE, SIDE, generator=run.generator(2))
    prior = maximize.Prior(jitter=4, blur=(0.7, 0.3), smoothness=20.0, centre=0.4, bounds=bounds)
    outcomes: dict[str, Tensor] = {}
    for name, held in (("no prior", maximize.Prior(bounds=bounds)), ("prior", prior)):
        found = maximize.maximize(
            model, viewer.score, start, steps=40, rate=15.0, prior=held, generator=run.generator(3)
        )
        outcomes[name] = found.images
    variation = {n: float(maximize.total_variation(p)) for n, p in outcomes.items()}
    run.check("total variation with the prior over that without", variation["prior"] / variation["no prior"],
              below=0.1)  # fmt: skip
    pictures = _crops(run.rng(), crops, crops // 8)
    found = viewer.fit(
        pictures, 3, top=crops * 3 // 4, closest=10, steps=steps, rate=10.0, seed=run.seed, at_once=32,
        prior=maximize.Prior(jitter=4, blur=(0.5, 0.3), smoothness=5.0, centre=0.4, bounds=bounds),
    )  # fmt: skip
    for number, picture in enumerate(found.images):
        outcomes[f"facet {number}"] = picture[None]
    with torch.no_grad():
        chances = {n: model(p).softmax(1)[0] for n, p in outcomes.items()}
        best = float(found.seen.max())
        rows = [
            {
                "picture": name,
                "answer": classes[int(p.argmax())].split(",")[0],
                "probability of the cat": float(p[CAT]),
                "activation": float(viewer.score(outcomes[name])),
                "total variation": float(maximize.total_variation(outcomes[name])),
            }
            for name, p in chances.items()
        ]
    run.table("Egyptian cat", rows, f"The largest activation of a crop of a photograph is {best:.1f}.")
    named = sum(int(p.argmax()) == CAT for n, p in chances.items() if n != "no prior")
    run.check("pictures with the prior, from noise and of three facets, that are named Egyptian cat", named, equals=4)
    run.check("least activation of a facet's picture over the largest of a real crop",
              float(found.activations.min()) / best, above=1.0)  # fmt: skip
    others = int((found.chosen >= crops).sum())
    run.check("crops without the cat among those with the largest activations", others, below=0)
    figure, panels = pyplot.subplots(2, 4, figsize=(9, 4.7), layout="constrained")
    stretched = {n: (outcomes[n][0] * (0.35 / outcomes[n].std())).clamp(low, high) for n in ("no prior", "prior")}
    tiles = [("from noise, no prior", stretched["no prior"])]
    tiles += [(f"start of facet {k}", picture) for k, picture in enumerate(found.starts)]
    tiles += [("from noise, with prior", stretched["prior"])]
    tiles += [(f"facet {k}", picture) for k, picture in enumerate(found.images)]
    for panel, (name, picture) in zip(panels.flat, tiles, strict=True):
        _show(panel, picture)
        panel.set_title(name, fontsize=9)
    run.plot("egyptian cat", figure, "EfficientNet-Lite0's class Egyptian cat. The facets are three parts of one "
             "photograph. Pictures from noise are shown with their contrast stretched.")  # fmt: skip
    run.text(
        "egyptian cat",
        "From noise without a prior the ascent ends in fine noise that the network is sure is a cat; with it larger "
        "shapes with a striped fur appear. The facets keep the colours and the layout of their part of the "
        "photograph, and sharpen what the class is about: fur, eyes, ears.",
    )


def experiment(run: Run, *, seeds: int = 2, crops: int = 64) -> None:
    """A linear unit, a unit with planted facets, even digits, and a class of EfficientNet-Lite0.

    Args:
        seeds: networks trained on digits (full only).
        crops: parts of the cat's photograph (full only).
    """
    finds_the_maximum(run)
    planted_facets(run)
    if not run.quick:
        even_digits(run, seeds)
        egyptian_cat(run, crops)
    run.text(
        "facets",
        "One ascent shows one facet of a unit. Grouping the pictures it answers to and starting once from each group's "
        "mean shows them all; the unit itself need not say that it has any.",
    )
