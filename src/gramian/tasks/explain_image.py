"""Explain a picture: where a trained network looks when it names what it sees, and how far the heat map is right.

The data are photographs (``photographs``, or any named picture), or an image file or folder of yours. They are
explained for what EfficientNet-Lite0 answers, or for ``--set label=NUMBER``; a network of yours comes with
``--set weights=net.safetensors --set factory=net.py:make``, and ``--set layer=NAME`` names the layer whose features
Eigen-CAM and Grad-CAM read. ``apply --set facets=3`` also paints three synthetic pictures of each class, one for each
kind of crop of the pictures: what the network looks for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pandas
import torch
from torch import Tensor, nn

from gramian import data as sets
from gramian import models
from gramian.analysis.explain import cam, faithfulness, linear_scope, maximize, relevance
from gramian.analysis.explain import facets as facet_groups
from gramian.lab import Run
from gramian.models.vision import efficientnet_lite
from gramian.nn.fold import fold_batch_norm
from gramian.tasks.support.classifier import open_classifier
from gramian.tasks.support.contract import Method, Problem, name_of

TITLE = "Explain a picture"
HEADLINE = "faithfulness"
METRICS = {"faithfulness": "higher", "insertion": "higher", "deletion": "lower"}
DEFAULT = "photographs"

PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "flower", "china", "astronaut")
_LAYER = "_blocks.15"  # the last but one: 7 × 7 places, and not yet the classifier's own


@dataclass(frozen=True)
class Subject:
    """A network with the pictures whose answers are to be explained.

    Attributes:
        x: prepared pictures.
        labels: the classes that are explained.
        probability: that the network gives them.
        words: the classes' names.
        layer: whose features the class activation maps read.
        bounds: smallest and largest value that a prepared pixel can have.
        facets: how many synthetic pictures of each class are saved with the maps.
        side: of those pictures, in pixels.
    """

    model: nn.Module
    x: Tensor
    labels: Tensor
    probability: Tensor
    pictures: tuple[str, ...]
    words: tuple[str, ...]
    layer: str
    bounds: tuple[float, float]
    facets: int = 0
    side: int = 224


Explain = Callable[[Subject], Tensor]


class Explanation:
    """A way to explain, with the maps it made; saved as its name, the maps and one picture of each.

    Args:
        method: a key of `METHODS` or `BASELINES`.
        subject: what was explained; None after loading.
        maps: (pictures, height, width).
    """

    def __init__(self, method: str, subject: Subject | None = None, maps: Tensor | None = None) -> None:
        self.method, self.subject, self.maps = method, subject, maps

    def save(self, path: Path) -> None:
        """Write the maps to ``path``, the method's name beside it, and ``<picture>.png`` with the map laid over it.

        Facets, if asked, go to ``facet-<class>-<number>.png``.
        """
        from safetensors.torch import save_file

        if self.subject is None or self.maps is None:
            raise ValueError("nothing was explained yet: there is no map to save")
        save_file({"maps": self.maps.contiguous()}, str(path))
        Path(path).with_suffix(".method.json").write_text(json.dumps({"method": self.method}), encoding="utf-8")
        for number, name in enumerate(self.subject.pictures):
            overlay(self.subject, self.maps, number).save(Path(path).parent / f"{Path(name).stem}.png")
        if self.subject.facets:
            for name, picture in class_facets(self.subject).items():
                _image(picture, self.subject.bounds).save(Path(path).parent / f"facet-{name}.png")

    @classmethod
    def load(cls, path: Path) -> Explanation:
        """The way to explain that was written to `path`; it explains any pictures."""
        method = json.loads(Path(path).with_suffix(".method.json").read_text(encoding="utf-8"))["method"]
        if method not in {**METHODS, **BASELINES}:
            raise ValueError(f"{path} names the method {method!r}; there are {', '.join([*METHODS, *BASELINES])}")
        return cls(method)


def load(
    data: str,
    target: str | None = None,
    *,
    layer: str = "",
    label: int = -1,
    facets: int = 0,
    weights: str = "",
    factory: str = "",
) -> Problem:
    """Prepare the pictures and ask the network what it sees.

    Args:
        data: ``photographs``, the name of a picture in the catalogue, an image file, or a folder of images.
        layer: the dotted name of a layer with (batch, channels, height, width) features.
        label: the class to explain for all pictures; -1 takes what the network answers.
        facets: how many synthetic pictures of each class `apply` is to paint; 0 for none.
        weights, factory: a file of weights and package.module:function or file.py:function that builds the network,
            which takes pictures as EfficientNet-Lite0 does: 224 × 224, (pixel − 127) / 128.

    Raises:
        ValueError: no picture, a layer or a class that is not there, a network that does not take these pictures, or
            a negative number of facets.
    """
    if target is not None:
        raise ValueError(f"target={target!r}: pictures have no columns; --set label=NUMBER chooses a class")
    if facets < 0:
        raise ValueError(f"facets={facets}: a number of pictures of each class, or 0 for none")
    name, pictures, names = _pictures(data)
    if weights or factory:
        if not layer:
            raise ValueError("a network of yours needs --set layer=NAME: which features are to be read?")
        model, _ = open_classifier(weights, factory)
        classes: list[str] | None = None
    else:
        model, classes = models.pretrained("efficientnet-lite0"), sets.load("imagenet_classes")
    model = model.eval()
    layer = layer or _LAYER
    cam.GradCAM(model, layer)  # names the layers if there is none of this name
    x = torch.stack([efficientnet_lite.preprocess(p) for p in pictures])
    with torch.no_grad():
        try:
            scores = model(x)
        except RuntimeError as error:
            raise ValueError(f"the network does not take pictures of {tuple(x.shape)}: {error}") from None
    if scores.ndim != 2 or len(scores) != len(x):
        raise ValueError(f"the network answers {tuple(scores.shape)} for {len(x)} pictures: class scores are needed")
    if not -1 <= label < scores.shape[1]:
        raise ValueError(f"label={label}: the network has classes 0 to {scores.shape[1] - 1}")
    labels = scores.argmax(1) if label < 0 else torch.full((len(x),), label)
    sure = scores.softmax(1).gather(1, labels[:, None])[:, 0]
    words = tuple(classes[k].split(",")[0] if classes else f"class {k}" for k in labels.tolist())
    bounds = tuple(float(v) for v in efficientnet_lite.standardize(torch.tensor([0.0, 255.0])))
    side = 224 if weights or factory else 128  # EfficientNet takes any side; smaller ones are painted faster
    subject = Subject(model, x, labels, sure, tuple(names), words, layer, (bounds[0], bounds[1]), facets, side)
    facts = {"pictures": len(x), "layer of the activation maps": layer,
             **{n: f"{w} ({p:.0%})" for n, w, p in zip(names, words, sure.tolist(), strict=True)}}  # fmt: skip
    note = (
        "Deletion: the class's probability, on average, while the hottest places are blurred first; insertion: while "
        "they come back first into the blurred picture. Faithfulness is insertion minus deletion."
    )
    return Problem(name, subject, None, subject, None, note, facts)


def _pictures(data: str) -> tuple[str, list[numpy.ndarray], list[str]]:
    path = Path(data)
    if data == DEFAULT:
        return data, [numpy.asarray(sets.load(n).pixels) for n in PHOTOGRAPHS], list(PHOTOGRAPHS)
    found = sets.read(path) if path.exists() else sets.load(data)
    if isinstance(found, sets.Image):
        return found.name, [numpy.asarray(found.pixels)], [found.name]
    if isinstance(found, sets.ImageSet):
        return found.name, list(found.images), [f.name for f in found.files]
    raise ValueError(f"{data} holds {type(found).__name__}, not pictures: give an image, a folder of images, or a name")


def evaluate(method: Method, problem: Problem, run: Run) -> tuple[dict[str, float], Explanation]:
    """Make the maps, then delete and insert by them."""
    subject: Subject = problem.train
    started = time.perf_counter()
    maps = method.build(run.seed)(subject)
    fit_s = time.perf_counter() - started
    started = time.perf_counter()
    curves = faithfulness.deletion_insertion(subject.model, subject.x, maps, subject.labels)
    name = name_of(method, {**METHODS, **BASELINES})
    return {
        "fit_s": fit_s,
        "predict_s": time.perf_counter() - started,
        "faithfulness": float((curves.insertion_area - curves.deletion_area).mean()),
        "insertion": float(curves.insertion_area.mean()),
        "deletion": float(curves.deletion_area.mean()),
    }, Explanation(name, subject, maps)


def predict(model: Explanation, problem: Problem) -> pandas.DataFrame:
    """A row a picture: what the network answers, the box around the hottest region, and both areas."""
    subject: Subject = problem.train
    if model.subject is not subject:
        maps = {**METHODS, **BASELINES}[model.method].build(0)(subject)
        model.subject, model.maps = subject, maps
    maps = model.maps
    if maps is None:
        raise ValueError("there are no maps: explain first")
    curves = faithfulness.deletion_insertion(subject.model, subject.x, maps, subject.labels)
    boxes = [_box(m) for m in maps]
    return pandas.DataFrame(
        {
            "picture": subject.pictures,
            "answer": subject.words,
            "probability": subject.probability.numpy(),
            **{side: [b[i] for b in boxes] for i, side in enumerate(("top", "left", "bottom", "right"))},
            "insertion": curves.insertion_area.numpy(),
            "deletion": curves.deletion_area.numpy(),
        }
    )


def _box(heat: Tensor) -> tuple[int, int, int, int] | tuple[None, None, None, None]:
    """Where the heat is at least half its largest; nothing where no place is positive."""
    return cam.box_from_map(heat) if float(heat.max()) > 0 else (None, None, None, None)


def overlay(subject: Subject, maps: Tensor, number: int) -> Any:
    """A picture with its map laid over it: what is cold is dimmed, what is hot shines orange."""
    pixels = _pixels(subject.x[number], subject.bounds)
    heat = maps[number].clamp(min=0)
    heat = (heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny))[..., None]
    warm = torch.tensor([1.0, 0.55, 0.1])
    mixed = pixels * (0.35 + 0.65 * heat) * (1 - 0.35 * heat) + 0.35 * heat * warm
    return _image(mixed.permute(2, 0, 1), (0.0, 1.0))


def class_facets(subject: Subject, crops: int = 48, steps: int = 30) -> dict[str, Tensor]:
    """Synthetic pictures of each class that is explained, by name: one for each kind of crop of its pictures.

    Args:
        crops: random squares of the class's pictures, which are grouped by the features of the subject's layer.
        steps: of the ascent from the mean of each group.
    """
    prior = maximize.Prior(jitter=4, blur=(0.5, 0.3), smoothness=5.0, centre=0.4, bounds=subject.bounds)
    rng = numpy.random.default_rng(0)
    found = {}
    for label in subject.labels.unique().tolist():
        chosen = (subject.labels == label).nonzero()[:, 0].tolist()
        parts = [_crop(subject.x[chosen[k % len(chosen)]], subject.side, rng) for k in range(crops)]
        viewer = facet_groups.MultifacetedVisualizer(subject.model, "", label, codes=subject.layer)
        pictures = viewer.fit(torch.stack(parts), subject.facets, steps=steps, rate=10.0, prior=prior).images
        word = subject.words[chosen[0]].replace(" ", "-")
        found |= {f"{word}-{k}": picture for k, picture in enumerate(pictures)}
    return found


def _crop(picture: Tensor, side: int, rng: numpy.random.Generator) -> Tensor:
    """A random square of at least half the picture's side, at the side that the network is given."""
    size = int(rng.integers(picture.shape[-1] // 2, picture.shape[-1] + 1))
    top, left = (int(rng.integers(0, n - size + 1)) for n in picture.shape[1:])
    part = picture[None, :, top : top + size, left : left + size]
    return nn.functional.interpolate(part, size=(side, side), mode="bilinear", align_corners=False, antialias=True)[0]


def _pixels(picture: Tensor, bounds: tuple[float, float]) -> Tensor:
    """A prepared picture as (height, width, channels) in [0, 1]."""
    low, high = bounds
    return ((picture.permute(1, 2, 0) - low) / (high - low)).clamp(0, 1)


def _image(picture: Tensor, bounds: tuple[float, float]) -> Any:
    """A prepared picture for a file."""
    from PIL import Image

    return Image.fromarray((_pixels(picture, bounds) * 255).round().to(torch.uint8).numpy())


def _smooth(maps: Tensor) -> Tensor:
    """Pixels' relevances gathered over neighbours: single pixels are no places."""
    return faithfulness.blurred(maps[:, None], sigma=4.0)[:, 0]


def _eigen_cam(seed: int) -> Explain:
    return lambda s: cam.EigenCAM(s.model, s.layer, center=True)(s.x)


def _grad_cam(seed: int) -> Explain:
    return lambda s: cam.GradCAM(s.model, s.layer)(s.x, s.labels)


def _linear_scope(seed: int) -> Explain:
    def explain(s: Subject) -> Tensor:
        scope = linear_scope.LinearScope(s.model)
        rows = [scope(x[None]).rows([label])[0] for x, label in zip(s.x, s.labels.tolist(), strict=True)]
        return _smooth((torch.cat(rows) * s.x).sum(1))

    return explain


def _lrp(seed: int) -> Explain:
    def explain(s: Subject) -> Tensor:
        folded = fold_batch_norm(s.model, s.x[:1])
        linear = [n for n, m in folded.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        rules = {n: relevance.Rule.gamma(0.25) for n in linear[1:]} | {linear[0]: relevance.Rule.zbox(*s.bounds)}
        with torch.no_grad():
            classes = s.model(s.x[:1]).shape[1]
        wanted = nn.functional.one_hot(s.labels, classes).to(s.x.dtype)
        found = [relevance.lrp(folded, x[None], w[None], rules)[0] for x, w in zip(s.x, wanted, strict=True)]
        return _smooth(torch.stack(found).sum(1))

    return explain


def _occlusion(seed: int) -> Explain:
    return lambda s: faithfulness.occlusion_map(s.model, s.x, s.labels)


def _chance(seed: int) -> Explain:
    def explain(s: Subject) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        small = torch.rand(len(s.x), 1, 7, 7, generator=draw)
        return nn.functional.interpolate(small, size=s.x.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    return explain


METHODS = {
    "eigen-cam": Method(_eigen_cam, "first principal component of a layer's features; asks no class", "eigen_cam"),
    "linear-scope": Method(
        _linear_scope, "the frozen network's row of the class, times the pixels, smoothed", "linear_scope"
    ),
    "lrp": Method(_lrp, "relevance handed back layer by layer (gamma rule, pixels' bounds), smoothed", "bilrp"),
}
BASELINES = {
    "grad-cam": Method(_grad_cam, "features weighted by the class's mean gradient"),
    "occlusion": Method(_occlusion, "how far the score falls under a grey square of 32 pixels"),
    "chance": Method(_chance, "a random smooth map"),
}
