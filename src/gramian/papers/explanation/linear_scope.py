"""Linear interpreters: a network with its units frozen at an input is a matrix that can be looked at (2019)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import data, models
from gramian.analysis.explain import linear_scope
from gramian.lab import Card, Run
from gramian.models.vision import efficientnet_lite

CARD = Card(
    title="A Tour of Convolutional Networks Guided by Linear Interpreters",
    row=109,
    year=2019,
    kind="method",
    idea="Freeze every nonlinear unit at what it does for one input: the network becomes y = F x + r. Rows of F are "
    "pixel votes for an output, columns are what an impulse leaves in the output, singular vectors are what passes.",
    claim="Classifiers vote pixel by pixel and lean heavily on their biases; super-resolution networks act through "
    "wavelet-like kernels.",
    keywords=("explain a prediction", "pixel votes", "Jacobian", "bias", "locally affine", "impulse response"),
    api=(
        "gramian.analysis.explain.linear_scope.LinearScope",
        "gramian.analysis.explain.linear_scope.LinearInterpreter",
        "gramian.analysis.explain.freeze.Frozen",
    ),
    use="frozen = LinearScope(model)(x)            # x: one prepared picture, (1, 3, 224, 224)\n"
    "votes = frozen.rows([285])[0] * x         # each pixel's part of output 285; frozen.residual is the biases'",
    reach="the trained super-resolution and image-to-image networks of the paper are not here: a bicubic network "
    "whose kernel is known stands in, and EfficientNet-Lite0 for the classifiers",
    differs=(
        "No layer of the network is wrapped or rewritten: torch's functions are intercepted, so that plain function "
        "calls, attention and transformers are frozen as well.",
        "Clipping units (ReLU6 at 6) add their bound to the residual; they pass nothing.",
        "What cannot be frozen without a choice (a product of two signals) is refused by name.",
    ),
    data=("efficientnet_lite0", "chelsea", "coffee", "astronaut", "rocket", "coins"),
)


class Gated(nn.Module):
    """Attention, normalization and smooth units: all that is not piecewise linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.last = nn.LayerNorm(width), nn.GroupNorm(2, width)
        self.mix, self.wide, self.narrow = (nn.Linear(width, k * width) for k in (3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.mix(self.norm(x)).chunk(3, -1)
        x = x + F.scaled_dot_product_attention(query, key, value)
        x = x + torch.softmax(query @ key.mT, -1) @ value
        a, b = self.wide(x).chunk(2, -1)
        x = x + self.narrow(F.silu(a)) + F.gelu(b) * torch.sigmoid(a)
        return self.last(x.mT).mT


def _piecewise(width: int) -> nn.Sequential:
    """ReLU, ReLU6, leaky ReLU and max pooling, as a small classifier has them."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU6(), nn.Conv2d(width, width, 3), nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 6),
    )  # fmt: skip


def _draw(model: nn.Module, generator: torch.Generator, gain: float = 1.0) -> nn.Module:
    """Weights (and running statistics) of a network drawn anew, in float64, in evaluation mode."""
    model = model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            fan_in = max(1, p[0].numel()) if p.ndim > 1 else 4
            p.copy_(gain * torch.randn(p.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
        for name, b in model.named_buffers():
            if b.is_floating_point():
                drawn = torch.rand(b.shape, generator=generator, dtype=torch.float64)
                b.copy_(drawn + 0.5 if name.endswith("var") else drawn - 0.5)
    return model


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


def piecewise_linear_networks(run: Run) -> None:
    """Here the frozen network is the network's own affine piece: F is the Jacobian."""
    generator = run.generator()
    model = _draw(_piecewise(10), generator, gain=2.0)
    x = 3 * torch.randn(1, 3, 12, 12, generator=generator, dtype=torch.float64)
    frozen = linear_scope.LinearScope(model)(x)
    run.check("ReLU and pooling: F x + r against the network (relative)",
              _distance(frozen.matvec(x) + frozen.residual, model(x)), below=1e-5)  # fmt: skip
    jacobian = torch.autograd.functional.jacobian(model, x)
    wanted = jacobian.view(6, -1)  # pyright: ignore
    rows = frozen.rows(range(6)).view(6, -1)
    run.check("ReLU and pooling: rows of F against autograd's Jacobian (relative)", _distance(rows, wanted), below=1e-6)
    some = list(range(0, 432, 37))
    columns = frozen.columns(some).view(len(some), 6)
    run.check("ReLU and pooling: columns of F against the Jacobian (relative)",
              _distance(columns, wanted[:, some].T), below=1e-6)  # fmt: skip
    u, w = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((1, 3, 12, 12), (1, 6)))
    forward, back = float((frozen.matvec(u) * w).sum()), float((u * frozen.rmatvec(w)).sum())
    run.check("⟨F u, w⟩ against ⟨u, Fᵀ w⟩ (relative)", abs(forward - back) / abs(forward), below=1e-5)
    found = frozen.svd(5, generator=generator)
    exact = torch.linalg.svdvals(wanted)[:5]
    run.check("five singular values against a dense decomposition (relative)", _distance(found.values, exact),
              below=1e-4)  # fmt: skip
    pulled = torch.stack([frozen.rmatvec(u) for u in found.left]).flatten(1)
    run.check("Fᵀ u = σ v for the five singular pairs (relative)",
              _distance(pulled, found.values[:, None] * found.right.flatten(1)), below=1e-4)  # fmt: skip


def smooth_networks(run: Run) -> None:
    """With gates and normalization the identity holds as well, and F is not the Jacobian."""
    generator = run.generator(1)
    model = _draw(Gated(8), generator)
    x = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)
    frozen = linear_scope.LinearScope(model)(x)
    run.check("attention, LayerNorm, SiLU: F x + r against the network (relative)",
              _distance(frozen.matvec(x) + frozen.residual, model(x)), below=1e-5)  # fmt: skip
    u, v = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    together = frozen.matvec(2 * u - 3 * v)
    apart = 2 * frozen.matvec(u) - 3 * frozen.matvec(v)
    run.check("attention, LayerNorm, SiLU: F (2u − 3v) against 2 F u − 3 F v (relative)", _distance(together, apart),
              below=1e-9)  # fmt: skip
    w = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    gap = abs(float((frozen.matvec(u) * w).sum() - (u * frozen.rmatvec(w)).sum()))
    run.check("attention, LayerNorm, SiLU: ⟨F u, w⟩ − ⟨u, Fᵀ w⟩", gap, below=1e-9)
    jacobian = torch.autograd.functional.jacobian(model, x).view(x.numel(), -1)  # pyright: ignore
    rows = frozen.rows(range(x.numel())).flatten(1)
    run.check("attention, LayerNorm, SiLU: distance of F from the Jacobian (relative)", _distance(rows, jacobian),
              above=0.1)  # fmt: skip


class Bicubic(nn.Module):
    """Twice the size, through units that let all pass in one of two halves: relu(x) − relu(−x) = x."""

    def forward(self, x: Tensor) -> Tensor:
        halves = torch.cat([x, -x], 1).relu()
        large = F.interpolate(halves, scale_factor=2, mode="bicubic", align_corners=False)
        return large[:, :1] - large[:, 1:] + 0.25


def keys_kernel(distance: Tensor, a: float = -0.75) -> Tensor:
    """The cubic convolution kernel (Keys, 1981), with torch's parameter."""
    d = distance.abs()
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def upsampler(run: Run, side: int = 9) -> None:
    """A network that enlarges by bicubic interpolation: its columns are the kernel."""
    x = torch.randn(1, 1, side, side, generator=run.generator(2), dtype=torch.float64)
    frozen = linear_scope.LinearScope(Bicubic())(x)
    centre = side // 2
    column = frozen.columns([centre * side + centre])[0, 0, 0]
    # a pixel of the large picture lies at (k + ½)/2 − ½ of the small one
    line = keys_kernel((torch.arange(2 * side, dtype=torch.float64) + 0.5) / 2 - 0.5 - centre)
    kernel = torch.outer(line, line)
    run.check("enlarging network: column of F against the bicubic kernel (largest difference)",
              (column - kernel).abs().max(), below=1e-5)  # fmt: skip
    run.check("enlarging network: residual against its bias", (frozen.residual - 0.25).abs().max(), below=1e-9)
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5, 3))
    panel.plot(line * keys_kernel(torch.tensor(-0.25, dtype=torch.float64)), label="cubic kernel")
    panel.plot(column[2 * centre], "o", markersize=4, label="a line of F's column")
    panel.set(xlabel="pixel of the large picture", ylabel="answer to one impulse")
    panel.legend()
    run.plot("impulse", figure, "An impulse pushed through the frozen enlarging network leaves its kernel.")


def _pictures(names: tuple[str, ...]) -> dict[str, Tensor]:
    return {n: efficientnet_lite.preprocess(np.asarray(data.load(n).pixels))[None] for n in names}


def classifier(run: Run, names: tuple[str, ...], label: int = 285) -> None:
    """EfficientNet-Lite0 on photographs: the identity, the votes of the pixels, and the biases' part."""
    model = models.pretrained("efficientnet-lite0")
    rows: list[dict[str, Any]] = []
    worst, shares, votes = 0.0, [], {}
    for name, x in run.progress(list(_pictures(names).items()), "freezing"):
        frozen = linear_scope.LinearScope(model)(x)
        with torch.no_grad():
            y = model(x)
        worst = max(worst, _distance(frozen.matvec(x) + frozen.residual, y))
        asked = label if name == "chelsea" else int(y.argmax())
        vote = (frozen.rows([asked])[0] * x)[0]
        votes[name] = (vote.sum(0), asked)
        share = float(frozen.residual.norm() / y.norm())
        shares.append(share)
        rows.append({"picture": name, "class": asked, "logit": float(y[0, asked]), "pixels' votes": float(vote.sum()),
                     "biases' part": float(frozen.residual[0, asked]), "|r| / |y|": share})  # fmt: skip
    run.table("votes", rows, "The logit of a class is the sum of the pixels' votes and the biases' part.")
    run.check("EfficientNet-Lite0: F x + r against the logits (relative)", worst, below=1e-3)
    apart = max(abs(r["pixels' votes"] + r["biases' part"] - r["logit"]) for r in rows)
    run.check("EfficientNet-Lite0: votes and biases' part against the logit", apart, below=1e-2)
    run.check("EfficientNet-Lite0: |r| / |y|, least of the pictures", min(shares), above=0.5,
              paper="classifiers heavily rely on bias parameters")  # fmt: skip
    _votes(run, votes)


def _votes(run: Run, votes: dict[str, tuple[Tensor, int]]) -> None:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, len(votes), figsize=(2.3 * len(votes), 4.6), squeeze=False)
    for column, (name, (vote, label)) in zip(panels.T, votes.items()):
        picture = _pictures((name,))[name][0].permute(1, 2, 0) * 128 + 127
        column[0].imshow(picture.clamp(0, 255).to(torch.uint8))
        column[0].set_title(f"{name}: class {label}", fontsize=9)
        smooth = F.avg_pool2d(vote[None, None], 7, 1, 3)[0, 0]
        limit = float(smooth.abs().max())
        column[1].imshow(smooth, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for panel in panels.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(False)
    run.plot("votes", figure, "Pixels' votes for the class (red for, blue against), averaged over 7 × 7 pixels.")


def what_passes(run: Run, name: str = "chelsea", count: int = 3, steps: int = 14) -> None:
    """The patterns that the frozen classifier passes most strongly."""
    import warnings

    from gramian.linalg.spectral import lanczos

    model = models.pretrained("efficientnet-lite0")
    x = _pictures((name,))[name]
    frozen = linear_scope.LinearScope(model)(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lanczos.NotConverged)  # said in the caption
        found = frozen.svd(count, steps=steps, generator=run.generator(3))
    own = float(frozen.matvec(x).norm() / x.norm())
    run.check("EfficientNet-Lite0: largest singular value over the gain of the picture itself",
              float(found.values[0]) / own, above=20.0)  # fmt: skip
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, count, figsize=(2.6 * count, 2.9), squeeze=False)
    for panel, value, pattern in zip(panels[0], found.values, found.right):
        shown = pattern[0].permute(1, 2, 0)
        panel.imshow((0.5 + shown / (8 * shown.std())).clamp(0, 1))
        panel.set_title(f"σ = {float(value):.1f}", fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(False)
    run.plot("patterns", figure, f"Input patterns that pass most strongly, for {name} ({steps} Lanczos steps). The "
             f"picture itself passes with a gain of {own:.2f}.")  # fmt: skip


def experiment(run: Run, *, pictures: tuple[str, ...] = ("chelsea", "coffee", "astronaut", "rocket", "coins")) -> None:
    """The affine identity on piecewise linear and smooth networks, a known kernel, and a trained classifier.

    Args:
        pictures: bundled photographs that the classifier is frozen at (the quick profile takes the first).
    """
    piecewise_linear_networks(run)
    smooth_networks(run)
    upsampler(run)
    classifier(run, pictures[:1] if run.quick else pictures)
    if not run.quick:
        what_passes(run)
    run.text(
        "linear interpreters",
        "Frozen at a picture, the classifier is a matrix and a residual. The residual alone is as long as the logits: "
        "what the picture does to them happens by choosing which biases reach the end, more than through the pixels' "
        "own votes.",
    )
