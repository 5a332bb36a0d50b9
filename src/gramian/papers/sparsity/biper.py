"""BiPer: binary networks through a square wave with a sine's derivative (Vargas et al., 2024)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from gramian.analysis import cost
from gramian.lab import Card, Run
from gramian.linalg.factor.quant import binary as signs
from gramian.models.vision import binary_nets
from gramian.nn.quantized import binary
from gramian.surgery.adapters import transfer
from gramian.surgery.swap import swap

CARD = Card(
    title="BiPer: Binary Neural Networks using a Periodic Function",
    row=11,
    arxiv="2404.01278",
    year=2024,
    kind="architecture",
    idea="A weight's bit is the sign of a sine of it, and gradients go through the sine. The frequency decides how far "
    "sine and sign are apart; a first stage trains with the sines themselves, a second with their signs.",
    claim="The frequency controls the quantization error, and networks of binary weights and activations gain up to "
    "1% on CIFAR-10 and 0.69% on ImageNet over the state of the art.",
    keywords=("binary neural network", "quantization", "1 bit", "straight-through", "XNOR", "popcount"),
    api=(
        "gramian.nn.quantized.binary.BiPerLinear",
        "gramian.nn.quantized.binary.BiPerConv2d",
        "gramian.nn.quantized.binary.square_wave",
        "gramian.linalg.factor.quant.binary.sign_matmul",
        "gramian.linalg.factor.quant.binary.periodic_error",
        "gramian.models.vision.binary_nets.BinaryResNet",
    ),
    use="layer = BiPerLinear(256, 256, frequency=20)  # train, then\nset_stage(model, 2)  # train again, then\n"
    "small = layer.packed()  # one bit a weight, XNOR and counting",
    reach="CIFAR-10 and ImageNet trainings of up to 600 epochs; digits stand in, and there BiPer is level with plain "
    "signs, not ahead",
    differs=(
        "The sign of 0 is +1; the released code takes torch.sign, whose 0 is a third value.",
        "The scale of an output starts at the root of 1 over the fan-in, not at a random number, and a bias is added "
        "after it.",
        "Activations that do not vary within a sample raise an error in training.",
    ),
)


class SignLinear(binary.BiPerLinear):
    """The usual binary layer, for comparison: the weight's own sign, gradients passed straight through."""

    @property
    def effective_weight(self) -> Tensor:
        return self.weight + (torch.where(self.weight >= 0, 1.0, -1.0) - self.weight).detach()


def forward_is_binary_and_backward_a_sine(run: Run) -> None:
    """Values and gradients of both functions against their formulas, written with numpy."""
    w = 0.2 * torch.randn(2000, generator=run.generator(), dtype=torch.float64)
    w[:3] = 0.0
    g = torch.randn(2000, generator=run.generator(1), dtype=torch.float64)
    worst, outside = 0.0, 0
    for frequency in (5.0, 20.0, 50.0):
        v = w.clone().requires_grad_()
        wave = binary.square_wave(v, frequency)
        (wave * g).sum().backward()
        exact = np.where(np.sin(frequency * w.numpy()) >= 0, 1.0, -1.0)
        outside += int((wave.detach().numpy() != exact).sum())
        slope = frequency * np.cos(frequency * w.numpy()) * g.numpy()
        worst = max(worst, float(np.abs(v.grad.numpy() - slope).max()) if v.grad is not None else np.inf)
    run.check("square wave: values that are not the sine's sign (+1 at 0), of 6,000", outside, equals=0)
    run.check("its gradient against ω cos(ωw) g, largest distance", worst, below=1e-6)
    a = torch.linspace(-2, 2, 401, dtype=torch.float64, requires_grad=True)
    y = binary.binary_sign(a)
    y.sum().backward()
    exact = np.maximum(2 - 2 * np.abs(a.detach().numpy()), 0)
    gap = float(np.abs(a.grad.numpy() - exact).max()) if a.grad is not None else np.inf
    run.check("sign of activations: gradient against max(2 − 2|a|, 0), largest distance", gap, below=1e-12)
    run.check("… its values", sorted(set(y.tolist())), equals=[-1.0, 1.0])


def frequency_controls_the_error(run: Run, draws: int = 300_000) -> None:
    """The closed form for Laplace weights against sampling, and the picture over frequencies and distributions."""
    from matplotlib import pyplot

    rng = run.rng()
    scale = 0.02
    samples = {"Laplace": rng.laplace(0, scale, draws), "Gaussian": scale * rng.standard_normal(draws)}
    rows: list[dict[str, Any]] = []
    for frequency in (5, 10, 20, 50, 100, 400):
        row: dict[str, Any] = {"frequency": frequency, "closed form": signs.periodic_error(frequency, scale)}
        for name, w in samples.items():
            s = np.sin(frequency * w)
            row[name] = float(((np.where(s >= 0, 1, -1) - s) ** 2).mean())
        rows.append(row)
    run.table(
        "quantization error", rows, "E(sign(s) − s)², s = sin(ωw), weights of scale 0.02; limit 3/2 − 4/π = .2268"
    )
    run.check("Laplace weights: closed form against sampling, largest distance",
              max(abs(r["closed form"] - r["Laplace"]) for r in rows), below=2e-3)  # fmt: skip
    falls = min(a["closed form"] - b["closed form"] for a, b in pairwise(rows))
    run.check("least fall of the error from one frequency to the next", falls, above=1e-3,
              paper="the frequency controls the quantization error")  # fmt: skip
    limit = 1.5 - 4 / np.pi
    run.check("ω = 400: distance to the limit 3/2 − 4/π", abs(rows[-1]["closed form"] - limit), below=0.01)
    figure, axes = pyplot.subplots()
    w = np.geomspace(1, 1000, 200)
    axes.semilogx(w, [signs.periodic_error(float(f), scale) for f in w], label="Laplace, closed form")
    for name in samples:
        axes.semilogx([r["frequency"] for r in rows], [r[name] for r in rows], "o", label=f"{name}, sampled")
    axes.axhline(limit, linestyle=":", color="C3", label="limit")
    axes.set(xlabel="frequency ω", ylabel="E(sign(s) − s)²")
    axes.legend()
    run.plot("error", figure, "What replacing a sine by its sign costs, over the frequency; weights of scale 0.02.")


def counting_bits_is_exact(run: Run) -> None:
    """Products by XNOR and counting against integers, and a small ResNet packed layer by layer."""
    rng, wrong, total = run.rng(3), 0, 0
    for rows, inner, outputs in ((1, 1, 1), (5, 64, 3), (65, 65, 7), (9, 1000, 33)):
        a, b = (rng.integers(-1, 2, shape) for shape in ((rows, inner), (outputs, inner)))
        b[b == 0] = 1
        words = signs.pack_signs(torch.from_numpy(b).float())
        found = signs.sign_matmul(torch.from_numpy(a).float(), words)
        wrong += int((found.numpy() != a @ b.T).sum())
        total += rows * outputs
    run.check(f"entries of products that differ from integers, of {total:,}", wrong, equals=0)
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        model = binary_nets.BinaryResNet((1, 1), 16, channels=1).eval()
    for layer in model.modules():
        if isinstance(layer, binary.BiPerConv2d):
            layer.seen += 1  # its values are random; this is about the product
    binary.set_stage(model, 2)
    x = torch.randn(4, 1, 8, 8, generator=run.generator(4))
    with torch.no_grad():
        before = model(x)
        with swap(model, "*", lambda name, layer: layer.packed(), binary.BiPerConv2d) as handle:  # type: ignore
            after = model(x)
            packed = sum(m.nbytes for m in handle.replacements.values())  # type: ignore[misc]
        plain = sum(m.weight.nbytes for m in handle.originals.values())  # type: ignore[union-attr,misc]
    run.check("a ResNet packed to bits: logits that differ", int((before != after).sum()), equals=0)
    run.check("bytes of its binary weights over packed ones", plain / packed, between=(24, 32))


def network(seed: int, layer: Callable[[int, int], nn.Module], width: int = 256) -> nn.Sequential:
    """Digits through a float layer, two binary ones and a head, with batch norms between."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), layer(width, width), nn.BatchNorm1d(width),
            layer(width, width), nn.BatchNorm1d(width), nn.Linear(width, 10),
        )  # fmt: skip


def two_stages(model: nn.Module, digits: transfer.Digits, steps: int, seed: int) -> tuple[float, float, float]:
    """Train in both stages; test accuracy after the first, with its sines rounded, and after the second."""
    x, y = digits.train, digits.train_labels
    test = (digits.test, digits.test_labels)
    transfer.train(model, x, y, steps=steps, lr=5e-3, seed=seed)
    first = transfer.accuracy(model, *test)
    binary.set_stage(model, 2)
    rounded = transfer.accuracy(model, *test)
    transfer.train(model, x, y, steps=steps, lr=1e-3, seed=seed + 10)
    return first, rounded, transfer.accuracy(model, *test)


def bits_alone_learn(run: Run, steps: int = 80) -> None:
    """Only the binary layers' weights are trained, first and last layer stay random: what the gradient is worth."""
    digits = transfer.load_digits()
    model = network(run.seed, binary.BiPerLinear)
    for layer in model:
        layer.requires_grad_(isinstance(layer, binary.BiPerLinear))
    for layer in model:
        if isinstance(layer, binary.BiPerLinear):
            layer.scale.requires_grad_(False)
            assert layer.bias is not None
            layer.bias.requires_grad_(False)
    before = transfer.accuracy(model, digits.test, digits.test_labels)
    _, _, after = two_stages(model, digits, steps, run.seed)
    run.table("only bits are trained", [{"digits, test accuracy before": before, "after": after}])
    run.check("digits, all but the binary weights random and frozen: accuracy", after, above=0.85)


def _trained(layer: Callable[[int, int], nn.Module], seed: int, steps: int) -> tuple[float, float, float]:
    torch.set_num_threads(1)
    return two_stages(network(seed, layer), transfer.load_digits(), steps, seed)


def digits_in_one_bit(run: Run, steps: int = 120, seeds: int = 3) -> None:
    """Two layers of 256 × 256 bits on digits, against the sign with a straight-through gradient."""
    layers = {"BiPer": binary.BiPerLinear, "sign, straight through": SignLinear}
    jobs = [(name, seed) for name in layers for seed in range(seeds)]
    work = (joblib.delayed(_trained)(layers[name], run.seed + seed, steps) for name, seed in jobs)
    found = joblib.Parallel(n_jobs=2)(work)
    rows = [
        {"layer": name, "seed": seed, "stage 1": a, "rounded": b, "stage 2": c}
        for (name, seed), (a, b, c) in zip(jobs, found, strict=True)
    ]
    run.table("digits", rows, f"test accuracy; {steps} steps in each stage (the sign has one kind of step)")
    mean = {n: sum(r["stage 2"] for r in rows if r["layer"] == n) / seeds for n in layers}
    run.check(f"digits, two binary layers: accuracy, mean of {seeds} seeds", mean["BiPer"], above=0.96,
              paper="86.98% (ResNet-20) on CIFAR-10, out of reach here")  # fmt: skip
    run.check("… accuracy that plain signs are ahead", mean["sign, straight through"] - mean["BiPer"], below=0.01)
    run.text("On digits", f"BiPer {mean['BiPer']:.3f}, plain signs {mean['sign, straight through']:.3f}: on data as "
             "easy as this neither is ahead by more than the seeds differ.")  # fmt: skip


def sizes_of_the_paper(run: Run) -> None:
    """Trainable parameters of the three networks for CIFAR-10, on the meta device."""
    rows = []
    for name, make, table in (
        ("ResNet-20", binary_nets.binary_resnet20, 0.27),
        ("ResNet-18", binary_nets.binary_resnet18, 11.01),
        ("VGG-Small", binary_nets.binary_vgg_small, 4.66),
    ):
        with torch.device("meta"):
            count = cost.parameters(make(), trainable=True)
        rows.append({"network": name, "parameters": count, "released, millions": table})
        run.check(f"{name}: millions of parameters", round(count / 1e6, 2), equals=table, paper=f"{table}M")
    run.table("sizes", rows)


def experiment(run: Run, *, steps: int = 120, seeds: int = 3) -> None:
    """The functions against formulas, the error against sampling, bits against integers, and trainings on digits.

    Args:
        steps: of each stage's training (full only).
        seeds: trainings of each kind (full only).
    """
    forward_is_binary_and_backward_a_sine(run)
    frequency_controls_the_error(run)
    counting_bits_is_exact(run)
    bits_alone_learn(run)
    sizes_of_the_paper(run)
    run.text(
        "A sine's sign",
        "With the frequency so high that weights spread over many periods, a sine is near its sign as often as an arc "
        "of it is: the cost of rounding falls to 0.23 and no further. Between, the frequency sets it.",
    )
    if not run.quick:
        digits_in_one_bit(run, steps, seeds)
