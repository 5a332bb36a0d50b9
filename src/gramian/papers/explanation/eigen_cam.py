"""Eigen-CAM: the first principal component of a layer's features shows what a network sees (2020)."""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gramian import data, models
from gramian.analysis.explain import cam
from gramian.lab import Card, Run
from gramian.models.vision import efficientnet_lite

CARD = Card(
    title="Eigen-CAM: Class Activation Map using Principal Components",
    row=213,
    arxiv="2008.00299",
    year=2020,
    kind="method",
    idea="Write the activations of a convolutional layer as a matrix, one place a row, and project it on its first "
    "right singular vector: the map shows where the object is, without class, gradient or change of the network.",
    claim="The maps find objects better than gradient-based ones do, and do not depend on the classifier's layers.",
    keywords=("saliency", "heat map", "where does the network look", "weak localization", "Grad-CAM", "SVD"),
    api=(
        "gramian.analysis.explain.cam.eigen_cam",
        "gramian.analysis.explain.cam.EigenCAM",
        "gramian.analysis.explain.cam.GradCAM",
        "gramian.analysis.explain.cam.box_from_map",
    ),
    use="heat = EigenCAM(model, '_blocks.15', center=True)(pictures)   # (batch, height, width) in [0, 1]\n"
    "top, left, bottom, right = box_from_map(heat[0])",
    reach="up to 12% better localization than the best other map, on ILSVRC's validation pictures, which are not here",
    differs=(
        "A singular vector has no sign: the one is taken whose map is positive where activations are long. "
        "pytorch-grad-cam leaves it to the SVD.",
        "The paper projects the activations as they are, pytorch-grad-cam subtracts each channel's mean first. Both "
        "are here (center=). Found here: uncentred, the map of every layer but the last block lights the background.",
    ),
    data=("efficientnet_lite0", "chelsea", "coffee", "gravel"),
)

SIDE, OBJECT = 224, 96


def is_the_first_singular_direction(run: Run) -> None:
    """Against a full SVD, and on rank one, where the map is known."""
    generator = run.generator()
    worst = 0.0
    for shape in ((3, 40, 7, 7), (3, 12, 9, 8)):
        a = torch.randn(shape, generator=generator).relu() + 0.2 * torch.rand(shape, generator=generator)
        for center in (False, True):
            rows = a.double().flatten(2).mT
            rows = rows - rows.mean(1, keepdim=True) if center else rows
            _, _, vt = torch.linalg.svd(rows, full_matrices=False)
            wanted = (rows @ vt[:, 0, :, None]).squeeze(-1)
            found = cam.eigen_cam(a, center=center).flatten(1).double()
            both = [w.clamp(min=0) / w.clamp(min=0).amax(1, keepdim=True) for w in (wanted, -wanted)]
            gaps = torch.stack([(found - w).abs().amax(1) for w in both]).amin(0)
            worst = max(worst, float(gaps.max()))
    run.check("map against a full SVD, either sign (largest difference)", worst, below=1e-5)
    place, channel = torch.rand(1, 30, generator=generator), torch.randn(16, generator=generator)
    found = cam.eigen_cam((channel[:, None] * place).view(1, 16, 5, 6)).flatten()
    off = (found - place[0] / place.max()).abs().max()
    run.check("rank one a bᵀ with a ≥ 0 gives a (largest difference)", off, below=1e-5)
    mixing = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    a = torch.rand(2, 12, 6, 6, generator=generator)
    mixed = torch.einsum("cd,bdhw->bchw", mixing, a)
    gap = max(float((cam.eigen_cam(a, center=c) - cam.eigen_cam(mixed, center=c)).abs().max()) for c in (False, True))
    run.check("channels mixed by an orthogonal matrix: the map's change", gap, below=1e-5)


def _photograph(name: str, side: int) -> np.ndarray:
    """The central square of a bundled photograph, resized."""
    from PIL import Image

    pixels = np.asarray(data.load(name).pixels)
    short = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - short) // 2, (pixels.shape[1] - short) // 2
    square = Image.fromarray(np.ascontiguousarray(pixels[top : top + short, left : left + short]))
    return np.array(square.resize((side, side), Image.Resampling.BICUBIC))


def _scenes(run: Run, count: int) -> tuple[list[np.ndarray], list[tuple[int, int]], Tensor]:
    """Small photographs at drawn places of grey or of gravel: the pictures, the corners, the network's input."""
    rng = run.rng()
    gravel = np.asarray(data.load("gravel").pixels)
    pictures, corners = [], []
    for k in range(count):
        canvas = np.full((SIDE, SIDE, 3), 127, np.uint8)
        if k // 2 % 2:
            y, x = rng.integers(0, gravel.shape[0] - SIDE, 2)
            canvas[:] = gravel[y : y + SIDE, x : x + SIDE, None]
        y, x = (int(v) for v in rng.integers(0, SIDE - OBJECT, 2))
        canvas[y : y + OBJECT, x : x + OBJECT] = _photograph(("chelsea", "coffee")[k % 2], OBJECT)
        pictures.append(canvas)
        corners.append((y, x))
    stacked = torch.stack([torch.from_numpy(p) for p in pictures]).permute(0, 3, 1, 2).float()
    return pictures, corners, efficientnet_lite.standardize(stacked)


def _shuffled_head(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network with its last layer's weights drawn anew, of the same size."""
    other = copy.deepcopy(model)
    weight = other.get_submodule("_fc").weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) * weight.std())
    return other


def does_not_ask_the_classifier(run: Run, layer: str = "_blocks.15") -> None:
    """A last layer drawn anew, and a wrong class asked for: Eigen-CAM has nothing to do with either."""
    model = models.pretrained("efficientnet-lite0")
    _, _, x = _scenes(run, 2)
    other = _shuffled_head(model, run.generator(1))
    moved, alike = [], []
    for kind in (cam.EigenCAM, cam.GradCAM):
        before, after = kind(model, layer)(x), kind(other, layer)(x)
        moved.append(float((before - after).abs().max()))
        alike.append(_correlation(before, after))
    run.check("last layer drawn anew: change of Eigen-CAM's maps", moved[0], below=1e-6,
              paper="robust against classification errors made by fully connected layers")  # fmt: skip
    run.check("last layer drawn anew: change of Grad-CAM's maps", moved[1], above=0.05)
    grad = cam.GradCAM(model, layer)
    with torch.no_grad():
        wrong = model(x).argmin(1)
    asked = _correlation(grad(x), grad(x, wrong))
    run.check("Grad-CAM's map of the answer with that of the least likely class (correlation)", asked, below=0.3)
    run.text(
        "the classifier's part",
        f"Grad-CAM's map of a wrong class is another map (correlation {asked:.2f}); Eigen-CAM has no class to be wrong "
        f"about. But with a last layer drawn anew Grad-CAM's map of whatever that layer answers stays nearly where it "
        f"was (correlation {alike[1]:.2f}): it, too, mostly shows where activations are.",
    )


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


class _Asked:
    """Grad-CAM of classes that are given."""

    def __init__(self, method: Any, labels: Tensor) -> None:
        self.method, self.labels = method, labels

    def __call__(self, x: Tensor) -> Tensor:
        return self.method(x, self.labels)


def _found(maps: Tensor, corners: list[tuple[int, int]]) -> dict[str, float]:
    """How often the peak lies on the object, the share of the map on it, and the overlap of the boxes."""
    hits, shares, overlaps = 0, [], []
    for heat, (y, x) in zip(maps, corners):
        if not float(heat.max()) > 0:  # a map of zeros points nowhere
            shares.append(0.0)
            overlaps.append(0.0)
            continue
        row, column = divmod(int(heat.argmax()), SIDE)
        hits += y <= row < y + OBJECT and x <= column < x + OBJECT
        shares.append(float(heat[y : y + OBJECT, x : x + OBJECT].sum() / heat.sum()))
        top, left, bottom, right = cam.box_from_map(heat, 0.5)
        tall = max(0, min(bottom, y + OBJECT) - max(top, y))
        wide = max(0, min(right, x + OBJECT) - max(left, x))
        overlaps.append(tall * wide / ((bottom - top) * (right - left) + OBJECT**2 - tall * wide))
    return {"peak on object": int(hits), "share on object": sum(shares) / len(shares),
            "overlap of boxes": sum(overlaps) / len(overlaps)}  # fmt: skip


def finds_the_object(
    run: Run, count: int, layers: tuple[str, ...], grad_layers: tuple[str, ...] = (), shown: str = "_blocks.15"
) -> None:
    """Small photographs on grey or gravel: does the map find them?"""
    model = models.pretrained("efficientnet-lite0")
    pictures, corners, x = _scenes(run, count)
    rows: list[dict[str, Any]] = []
    kept: dict[str, Tensor] = {}
    asked: list[tuple[str, str, Any]] = []
    for layer in layers:
        asked += [("Eigen-CAM", layer, cam.EigenCAM(model, layer)),
                  ("Eigen-CAM, centred", layer, cam.EigenCAM(model, layer, center=True))]  # fmt: skip
    for layer in grad_layers:
        asked.append(("Grad-CAM", layer, cam.GradCAM(model, layer)))
        if not run.quick:
            with torch.no_grad():
                wrong = model(x).argmin(1)
            asked.append(("Grad-CAM, least likely class", layer, _Asked(cam.GradCAM(model, layer), wrong)))
    for name, layer, method in run.progress(asked, "maps"):
        start = time.perf_counter()
        maps = method(x)
        seconds = time.perf_counter() - start
        rows.append({"map": name, "layer": layer, **_found(maps, corners), "ms a picture": 1e3 * seconds / count})
        if layer == shown:
            kept[name] = maps
    chance = OBJECT**2 / SIDE**2
    run.table("localization", rows, f"{count} pictures of {SIDE} pixels with an object of {OBJECT} at a drawn place; "
              f"a map spread evenly has {chance:.3f} of itself on it. Boxes at half of the largest value.")  # fmt: skip
    by = {(r["map"], r["layer"]): r for r in rows}
    plain, centred = by["Eigen-CAM", shown], by["Eigen-CAM, centred", shown]
    least = round(22 / 24 * count)
    run.check(f"last block: peak on the object, of {count}", plain["peak on object"], above=least,
              paper="ILSVRC's boxes are not here")  # fmt: skip
    run.check("last block: share of the map on the object", plain["share on object"], above=0.45)
    run.check(f"last block, centred: peak on the object, of {count}", centred["peak on object"], above=least)
    run.check("last block, centred: share of the map on the object", centred["share on object"], above=0.6)
    if not run.quick:
        grad = by["Grad-CAM", shown]
        ratio = centred["overlap of boxes"] / grad["overlap of boxes"]
        run.check("last block: overlap of boxes, centred Eigen-CAM over Grad-CAM", ratio, above=1.0,
                  paper="up to 12% better than the best of the methods compared")  # fmt: skip
        early = [by["Eigen-CAM", n]["peak on object"] for n in layers if n != shown]
        run.text("layers", f"Uncentred, the first direction of earlier blocks is what all places share: the peak lies "
                 f"on the object in {', '.join(map(str, early))} of {count} pictures at {', '.join(layers[:-1])}, in "
                 f"{plain['peak on object']} at {shown}. Centring removes the shared part.")  # fmt: skip
    _picture(run, pictures, corners, kept)


def _picture(run: Run, pictures: list[np.ndarray], corners: list[tuple[int, int]], maps: dict[str, Tensor]) -> None:
    from matplotlib import patches, pyplot

    shown = list(range(min(4, len(pictures))))
    figure, panels = pyplot.subplots(len(maps), len(shown), figsize=(2 * len(shown), 2.1 * len(maps)), squeeze=False)
    for line, (name, heat) in zip(panels, maps.items()):
        for panel, k in zip(line, shown):
            panel.imshow(pictures[k])
            panel.imshow(heat[k].numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
            y, x = corners[k]
            panel.add_patch(patches.Rectangle((x, y), OBJECT, OBJECT, fill=False, edgecolor="C2", linewidth=1.5))
            panel.set_xticks([])
            panel.set_yticks([])
            panel.grid(False)
        line[0].set_ylabel(name.replace(", ", ",\n"), fontsize=9)
    run.plot("maps", figure, "Maps of the last block; the frame is where the photograph was pasted.")


def experiment(run: Run, *, count: int = 24) -> None:
    """The map against a full SVD, its independence of the classifier, and where it finds pasted objects.

    Args:
        count: pictures of the localization (full; the quick profile takes 4).
    """
    is_the_first_singular_direction(run)
    does_not_ask_the_classifier(run)
    if run.quick:
        finds_the_object(run, 4, ("_blocks.15",))
    else:
        finds_the_object(run, count, ("_blocks.4", "_blocks.10", "_blocks.13", "_blocks.15"), ("_blocks.15",))
    run.text(
        "eigen-cam",
        "One direction of the features, with no question asked of the classifier, is enough to point at the object "
        "in the last block. It says where something is, not why it was given its class.",
    )
