"""Delta activations: training for activations that do not change (Yousefzadeh and Sifalakis, 2021)."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.data.synthetic.moving_digits import moving_digits
from gramian.lab import Card, Run
from gramian.nn.sparse import delta
from gramian.surgery import temporal

CARD = Card(
    title="Training for temporal sparsity in deep neural networks, application in video processing",
    row=211,
    arxiv="2107.07305",
    year=2021,
    kind="architecture",
    idea="Activations are rounded to steps that are learned, so that most of them stay the same from one frame to the "
    "next. What does not change needs no multiplication: the next layer adds the products of the changes to what "
    "it had.",
    claim="Almost three times fewer activations that are not zero on UCF101, at a recoverable loss of accuracy.",
    keywords=("temporal sparsity", "video", "delta network", "sigma-delta", "streaming inference", "quantization"),
    api=(
        "gramian.nn.sparse.delta.DeltaActivation",
        "gramian.nn.sparse.delta.DeltaLinear",
        "gramian.nn.sparse.delta.DeltaConv2d",
        "gramian.surgery.temporal.to_delta_inference",
        "gramian.data.synthetic.moving_digits.moving_digits",
    ),
    use="net = nn.Sequential(PerFrame(conv), nn.ReLU(), DeltaActivation(shape, rate=1e-2), PerFrame(linear))\n"
    "stream = to_delta_inference(net)\nout = stream.step(frame)",
    reach="UCF101 and its networks; clips of moving digits stand in, which move every second "
    "frame, and most of the gain on them is that pause: learned steps add a seventh to it",
    differs=(
        "A bias inside a layer that takes changes is added once, in the first frame, instead of being refused.",
        "Products of convolutions are counted with their padding and stride: a changed entry at an edge costs less "
        "than the fan-out.",
        "The sum of the penalties is added by the loss function; the layer does not change the loss itself.",
    ),
)


def network(seed: int, rate: float | None) -> nn.Sequential:
    """Two convolutions, a hidden layer and a head, for frames of 10 × 10; rate None leaves delta activations out."""

    def changes(shape: tuple[int, ...], fan_out: int) -> nn.Module:
        return nn.Identity() if rate is None else delta.DeltaActivation(shape, rate=rate, fan_out=fan_out)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            delta.PerFrame(nn.Conv2d(1, 8, 3, 2, 1)), nn.ReLU(), changes((8, 5, 5), 36),
            delta.PerFrame(nn.Conv2d(8, 16, 3, 1, 1)), nn.ReLU(), changes((16, 5, 5), 36),
            delta.PerFrame(nn.Flatten()), delta.PerFrame(nn.Linear(400, 32)), nn.ReLU(), changes((32,), 36),
            delta.PerFrame(nn.Linear(32, 10)),
        )  # fmt: skip


def streams_do_not_drift(run: Run, frames: int = 200) -> None:
    """Frame by frame on changes, against the whole sequence at once."""
    model = network(run.seed, 0.0).eval()
    x = torch.randn(2, frames, 1, 10, 10, generator=run.generator()).cumsum(1) / 10
    stream = temporal.to_delta_inference(model)
    with torch.no_grad():
        whole = model(x)
        steps = torch.stack([stream.step(x[:, t]) for t in range(frames)], 1)
    gaps = (steps - whole).abs().amax((0, 2))
    scale = float(whole.abs().max())
    run.check(f"{frames} frames: stream against the whole sequence, largest distance", gaps.max(), below=1e-5 * scale)
    layer = model[2]
    z = layer.quantize(x.new_tensor(np.linspace(-1, 1, 8 * 25 * 20)).view(20, 8, 5, 5)).detach()
    moves = torch.cat([z[:1], z[1:] - z[:-1]]).double()
    run.check("changes summed against the activations, largest distance", (moves.cumsum(0) - z).abs().max(), below=1e-6)
    run.log(state_bytes=stream.nbytes)
    rows = [{"what": "state of the stream, bytes for 2 clips", "value": stream.nbytes}]
    rows += [{"what": "products in all frames", "value": stream.macs}]
    run.table("stream", rows)


def gradients_are_the_papers(run: Run) -> None:
    """Three activations and one step, by hand."""
    layer = delta.DeltaActivation((3,), level="layer", init=-0.5).double()
    x = torch.tensor([[[0.6, -1.4, 0.1]]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([[[1.0, 2.0, -4.0]]], dtype=torch.float64)
    z = layer(x)
    (z * g).sum().backward()
    run.check("values of (.6, −1.4, .1) in steps of .5", z.flatten().tolist(), equals=[0.5, -1.5, 0.0])
    run.check("gradient of the activations", _grads(x), equals=[1.0, 2.0, -4.0])
    # −Σ g round(x / q) = −(1·1 + 2·(−3)) = 5, and the threshold is negative: −5
    run.check("gradient of the threshold", _grads(layer.threshold), equals=[-5.0])


def _grads(x: Tensor) -> list[float]:
    return [] if x.grad is None else x.grad.flatten().tolist()


def what_stands_still_is_free(run: Run) -> None:
    """A constant clip, and the products counted against the changed entries."""
    x = torch.rand(1, 1, 1, 10, 10, generator=run.generator(2)).expand(-1, 6, -1, -1, -1)
    model = network(run.seed, 0.0).eval()
    stream = temporal.to_delta_inference(model)
    after = []
    for t in range(6):
        stream.step(x[:, t])
        after.append(stream.macs)
    run.check("a constant clip: products after the first frame", after[-1] - after[0], equals=0)
    run.check("… in the first frame", after[0], above=1)
    with torch.no_grad():
        model(x)
        changed = {i: int(model[i].counts[0]) for i in (5, 9)}
    linear = changed[5] * 32 + changed[9] * 10
    counted = sum(p.macs for p in stream.parts if isinstance(p, delta.DeltaLinear))
    run.check("products of the linear layers less changed entries × fan-out", counted - linear, equals=0)
    conv = delta.DeltaConv2d(nn.Conv2d(2, 3, 3, 2, 1))
    d = torch.zeros(1, 2, 5, 5)
    d[0, 1, 2, 2] = d[0, 0, 0, 0] = d[0, 1, 1, 0] = 1.0
    conv(d)
    outputs = sum(abs(2 * i - r) <= 1 and abs(2 * j - c) <= 1
                  for r, c in ((2, 2), (0, 0), (1, 0)) for i in range(3) for j in range(3))  # fmt: skip
    run.check("products of a convolution less those listed by hand", conv.macs - 3 * outputs, equals=0)


def clips(frames: int = 16) -> tuple[Tensor, Tensor]:
    """Scikit-learn's digits, each moving through a clip of 10 × 10 pixels, one move every second frame."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / 16
    video = moving_digits(images, frames, 10, torch.Generator().manual_seed(0), hold=2)
    return video[:, :, None], torch.tensor(digits.target)


def _loss(module: Any, x: Tensor, y: Tensor) -> Tensor:
    value = F.cross_entropy(module(x).mean(1), y)
    return value + sum(
        m.penalty for m in module.modules() if isinstance(m, delta.DeltaActivation) and m.penalty is not None
    )


def _trained(rate: float | None, seed: int, steps: int) -> dict[str, float]:
    torch.set_num_threads(1)
    x, y = clips()
    model = network(seed, rate)
    generator = torch.Generator().manual_seed(seed)
    optim.fit(model, [x[300:], y[300:]], _loss, steps=steps, batch_size=32, lr=5e-3, generator=generator,
              show_progress=False)  # fmt: skip
    nonzero, moved, total, h = 0, 0, 0, x[:300]
    with torch.no_grad():
        for part in model:
            h = part(h)
            if isinstance(part, nn.ReLU):  # what a layer that skips zeros, or exact repetitions, would have to do
                nonzero += int(h.count_nonzero())
                total += h.numel()
                moved += int((h[:, 1:] != h[:, :-1]).sum()) + int(h[:, 0].count_nonzero())
        if rate is not None:
            moved = sum(int(m.counts[0]) for m in model.modules() if isinstance(m, delta.DeltaActivation))
    accuracy = float((h.mean(1).argmax(-1) == y[:300]).float().mean())
    return {"accuracy": accuracy, "not zero": nonzero / total, "changed": moved / total}


def temporal_sparsity_is_learned(run: Run, steps: int = 120, seeds: int = 3, rate: float = 0.01) -> None:
    """Moving digits with and without delta activations: what is not zero, what changes, and the accuracy."""
    from matplotlib import pyplot

    jobs = [(r, seed) for r in (None, rate) for seed in range(seeds)]
    found: Any = joblib.Parallel(n_jobs=2)(joblib.delayed(_trained)(r, run.seed + s, steps) for r, s in jobs)
    rows = [
        {"network": "ReLU" if r is None else "delta activations", "seed": s, **f}
        for (r, s), f in zip(jobs, found, strict=True)
    ]
    run.table("moving digits", rows, "share of activations that are not zero, and that change from frame to frame")
    plain, ours = rows[:seeds], rows[seeds:]
    mean = {k: (float(np.mean([r[k] for r in plain])), float(np.mean([r[k] for r in ours]))) for k in found[0]}
    run.check("activations not zero with ReLU alone over changes with delta activations, mean",
              mean["not zero"][0] / max(mean["changed"][1], 1e-9), above=2,
              paper="almost 3 on UCF101, not reproducible here")  # fmt: skip
    run.check("changes of the ReLU network over those with delta activations, mean",
              mean["changed"][0] / max(mean["changed"][1], 1e-9), above=1.1)  # fmt: skip
    run.check("accuracy lost, mean", mean["accuracy"][0] - mean["accuracy"][1], below=0.03)
    run.check("accuracy with delta activations, mean", mean["accuracy"][1], above=0.7)
    figure, axes = pyplot.subplots()
    bars = (mean["not zero"][0], mean["changed"][0], mean["changed"][1])
    axes.bar(["ReLU:\nnot zero", "ReLU:\nchanged", "delta activations:\nchanged"], bars, color=["C0", "C1", "C2"])
    axes.set(ylabel="share of activations")
    run.plot("activations", figure, "What the next layer has to multiply: moving digits, mean of the seeds.")
    run.text(
        "Where the gain comes from",
        f"Of {mean['not zero'][0]:.0%} activations that are not zero, {mean['changed'][0]:.0%} are left if one only "
        f"skips what repeats exactly, as digits move every second frame; with learned steps {mean['changed'][1]:.0%}.",
    )


def experiment(run: Run, *, steps: int = 120, seeds: int = 3) -> None:
    """Streams against whole sequences, gradients by hand, counts, and trainings on moving digits.

    Args:
        steps: of each training (full only).
        seeds: trainings of each kind (full only).
    """
    streams_do_not_drift(run)
    gradients_are_the_papers(run)
    what_stands_still_is_free(run)
    _picture(run)
    if not run.quick:
        temporal_sparsity_is_learned(run, steps, seeds)


def _picture(run: Run) -> None:
    from matplotlib import pyplot

    x = torch.sin(torch.linspace(0, 6, 80)) + 0.05 * torch.randn(80, generator=run.generator(5))
    figure, axes = pyplot.subplots()
    axes.plot(x, label="activation")
    for q in (0.1, 0.5):
        z = delta.DeltaActivation((1,), init=q)(x.view(1, 80, 1)).detach().flatten()
        axes.step(range(80), z, where="mid", label=f"steps of {q}: {int(z.diff().count_nonzero())} changes")
    axes.set(xlabel="frame", ylabel="activation")
    axes.legend()
    run.plot("steps", figure, "An activation over time, and what is left of its changes when it is rounded.")
