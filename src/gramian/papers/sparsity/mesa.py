"""Mesa: exact forward passes, and activations kept in eight bits for the backward pass (Pan et al., 2021)."""

from __future__ import annotations

import copy
from typing import Any

import joblib
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.lab import Card, Run
from gramian.models.vision import deit, vit
from gramian.surgery.mesa import layers, store

CARD = Card(
    title="Mesa: A Memory-saving Training Framework for Transformers",
    row=224,
    arxiv="2111.11124",
    year=2021,
    kind="method",
    idea="Training holds every activation until the backward pass. Mesa computes forward with exact ones and keeps "
    "them in eight bits, with running estimates of their ranges and a range for each attention head.",
    claim="Training memory shrinks by up to half, at accuracies that are the same or better.",
    keywords=("memory", "activation compression", "quantized training", "transformer", "DeiT", "stochastic rounding"),
    api=(
        "gramian.surgery.mesa.layers.mesa",
        "gramian.surgery.mesa.layers.quantized_saves",
        "gramian.surgery.mesa.layers.saved_bytes",
        "gramian.surgery.mesa.store.Quantizer",
        "gramian.models.vision.deit.DeiT",
    ),
    use="handle = mesa(model, bits=8)\nloss(model(x), y).backward()\nhandle.merge()\n\n"
    "with quantized_saves(bits=8):\n    value = loss(any_model(x), y)\nvalue.backward()",
    reach="ImageNet, CIFAR-100 and ADE20K; the bytes that autograd holds are counted on DeiT-Ti's own shape, "
    "accuracies on digits with a small one",
    differs=(
        "What lies outside the running range is clipped on both sides; the released kernel clips below only, and "
        "its eight-bit codes wrap around above.",
        "Codes of 1, 2 and 4 bits are packed; the released kernel keeps one byte for each of them.",
        "Counted are the bytes saved for the backward pass, where the paper has the peak of a GPU, weights and "
        "optimizer included.",
        "Beside the swapped layers a context does the same for any network, with each tensor's own range.",
    ),
)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(found.images, dtype=torch.float32)[order, None] / 16, torch.tensor(found.target)[order]


def _small(seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return deit.DeiT(8, 2, channels=1, classes=10, width=32, depth=2, heads=4, neurons=64)


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    model.train()
    value = F.cross_entropy(model(x), y)
    found = torch.autograd.grad(value, list(model.parameters()))
    return value.detach(), torch.cat([g.flatten() for g in found])


def _distance(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def forward_is_exact(run: Run) -> None:
    """A loss with and without, and the gradients of every kind of layer when 16 bits are kept."""
    x, y = _digits()
    model = _small(run.seed)
    plain = _gradient(model, x[:32], y[:32])
    with layers.mesa(model, bits=8, generator=run.generator(1)):
        value, found = _gradient(model, x[:32], y[:32])
    run.check("DeiT's loss with activations in 8 bits less the exact one", float(value - plain[0]), equals=0.0)
    run.check("… and the relative distance of its gradient", _distance(found, plain[1]), between=(1e-4, 0.05))
    generator, rows = run.generator(2), []
    kinds: dict[str, tuple[nn.Module, tuple[tuple[int, ...], ...]]] = {
        "linear": (nn.Linear(12, 7), ((4, 5, 12),)),
        "convolution": (nn.Conv2d(4, 6, 3, stride=2, padding=1), ((3, 4, 7, 7),)),
        "layer norm": (nn.LayerNorm(12), ((4, 5, 12),)),
        "batch norm": (nn.BatchNorm2d(4), ((3, 4, 5, 5),)),
        "GELU": (nn.GELU(), ((4, 5, 12),)),
        "ReLU": (nn.ReLU(), ((4, 5, 12),)),
        "softmax": (nn.Softmax(-1), ((2, 3, 5, 5),)),
        "product": (deit.MatMul(), ((2, 3, 4, 5), (2, 3, 5, 6))),
    }
    for name, (layer, shapes) in kinds.items():
        holder = nn.ModuleDict({"layer": copy.deepcopy(layer)}).train()
        inputs = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
        expected = layer(*inputs)
        push = torch.randn(expected.shape, generator=generator)
        wanted = torch.autograd.grad(expected, [*inputs, *layer.parameters()], push)
        row: dict[str, Any] = {"layer": name}
        for bits in (16, 8, 4):
            with layers.mesa(holder, bits=bits, generator=run.generator(3)) as handle:
                parameters = [p for m in handle.originals.values() for p in m.parameters()]
                got = torch.autograd.grad(holder["layer"](*inputs), [*inputs, *parameters], push)
                row[f"{bits} bits"] = max(_distance(g, w) for g, w in zip(got, wanted, strict=True))
        rows.append(row)
    run.table("gradients of layers", rows, "relative distance to autograd's, the largest over inputs and weights")
    run.check("16 bits kept: gradients of all layers, largest relative distance",
              max(r["16 bits"] for r in rows), below=1e-3)  # fmt: skip
    run.check("… of ReLU, from one bit", max(r["4 bits"] for r in rows if r["layer"] == "ReLU"), below=1e-6)


def bits_and_gradients(run: Run) -> None:
    """A small network's gradient with 8, 4 and 2 bits kept; the same for a network that nobody changed."""
    x, y = _digits()
    torch.manual_seed(run.seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(),
                          nn.Linear(128, 10))  # fmt: skip
    other = vit.TinyViT((8, 8), (1, 8))
    exact = [_gradient(m, x[:128], y[:128])[1] for m in (model, other)]
    rows = []
    for bits in (8, 4, 2):
        with layers.mesa(model, bits=bits, generator=run.generator(1)):
            found = _gradient(model, x[:128], y[:128])[1]
        with layers.quantized_saves(bits, parameters=other.parameters(), generator=run.generator(2)):
            value = F.cross_entropy(other.train()(x[:128]), y[:128])
        unchanged = torch.cat([g.flatten() for g in torch.autograd.grad(value, list(other.parameters()))])
        cosine = float(F.cosine_similarity(found, exact[0], dim=0))
        rows.append({"bits": bits, "relative distance": _distance(found, exact[0]), "cosine": cosine,
                     "saved inside the context": _distance(unchanged, exact[1])})  # fmt: skip
    run.table("gradients of networks", rows, "a GELU network on digits, and a transformer inside quantized_saves")
    bounds = {8: (1e-4, 0.03), 4: (0.02, 0.3), 2: (0.15, 2.0)}
    for row in rows:
        run.check(f"{row['bits']} bits: relative distance of the gradient", row["relative distance"],
                  between=bounds[row["bits"]])  # fmt: skip
    run.check("8 bits: cosine of the gradient with the exact one", rows[0]["cosine"], above=0.999)
    run.check("8 bits, any network: relative distance of the gradient", rows[0]["saved inside the context"],
              between=(1e-4, 0.1))  # fmt: skip


def bytes_are_saved(run: Run, batch: int) -> None:
    """The bytes that autograd holds for DeiT-Ti, exactly and in 8, 4 and 2 bits."""
    from matplotlib import pyplot

    torch.manual_seed(run.seed)
    model = deit.DeiT().train()
    run.check("parameters of DeiT-Ti", sum(p.numel() for p in model.parameters()), equals=5_717_416, paper="5.7M")
    x = torch.randn(batch, 3, 224, 224, generator=run.generator(4))

    def held() -> int:
        return layers.saved_bytes(lambda: model(x).sum(), model.parameters())

    exact = held()
    found = {"exact": exact}
    for bits in (8,) if run.quick else (8, 4, 2):
        with layers.mesa(model, bits=bits, stochastic=False):
            found[f"{bits} bits"] = held()
    rows = [{"kept": k, "MB an image": v / batch / 2**20, "share": v / exact} for k, v in found.items()]
    run.table("DeiT-Ti", rows, f"held for the backward pass of a batch of {batch}, images of 224 × 224")
    run.check("8 bits: bytes held over the exact ones", found["8 bits"] / exact, between=(0.2, 0.4),
              paper="a GPU's peak: 4,171 MB exact, 1,858 MB with Mesa (released results)")  # fmt: skip
    relu = nn.Sequential(nn.ReLU()).train()
    entries = torch.randn(1000, 80, requires_grad=True)
    with layers.mesa(relu):
        run.check("bits that ReLU keeps for an entry",
                  8 * layers.saved_bytes(lambda: relu(entries).sum()) / entries.numel(), equals=1.0)  # fmt: skip
    figure, axes = pyplot.subplots()
    axes.bar([r["kept"] for r in rows], [r["MB an image"] for r in rows], color=[f"C{i}" for i in range(len(rows))])
    axes.set(ylabel="MB held for an image")
    run.plot("bytes", figure, "DeiT-Ti: what autograd holds for the backward pass of an image.")


def heads_need_their_own_ranges(run: Run) -> None:
    """Attention whose heads differ in scale by up to a hundred, kept with one range and with one for each head."""
    generator = run.generator(5)
    scales = torch.logspace(0, 2, 4)
    x = torch.randn(8, 4, 16, 8, generator=generator) * scales[None, :, None, None]
    rows = []
    for groups, name in ((1, "one range"), (0, "one for each head")):
        quantizer = store.Quantizer(8, groups, generator=run.generator(6))
        kept = store.restore(quantizer(x), 8, tuple(x.shape), x.dtype)
        errors = [_distance(kept[:, h], x[:, h]) for h in range(4)]
        rows.append({"ranges": name, **{f"scale {float(s):.0f}": e for s, e in zip(scales, errors, strict=True)}})
    run.table("heads", rows, "relative error of each head, 8 bits")
    smallest = [row["scale 1"] for row in rows]
    run.check("smallest head: error of one range over that of its own", smallest[0] / smallest[1], above=20)
    run.check("own ranges: largest relative error of a head", max(list(rows[1].values())[1:]), below=0.02)


def _trained(swap: Any, seed: int, bits: int, epochs: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    x, y = _digits()
    model = _small(seed)
    handle = swap(model, bits=bits, generator=torch.Generator().manual_seed(seed)) if bits else None
    optim.fit(
        model, [x[500:], y[500:]], lambda m, a, b: F.cross_entropy(m(a), b), epochs=epochs, batch_size=64, lr=3e-3,
        schedule="cosine", generator=torch.Generator().manual_seed(seed), show_progress=False,
    )  # fmt: skip
    if handle is not None:
        handle.merge()
    with torch.no_grad():
        accuracy = float((model(x[:500]).argmax(-1) == y[:500]).float().mean())
    return {"seed": seed, "kept": f"{bits} bits" if bits else "exact", "accuracy": accuracy}


def training_is_the_same(run: Run, seeds: int, epochs: int) -> None:
    """Small transformers on digits, trained with exact activations and with 8 bits; one of them with 2."""
    jobs = [(run.seed + s, bits) for s in range(seeds) for bits in (0, 8)] + [(run.seed, 2)]
    found: Any = joblib.Parallel(n_jobs=2)(joblib.delayed(_trained)(layers.mesa, s, b, epochs) for s, b in jobs)
    run.table("digits", found, f"accuracy after {epochs} epochs")
    of = {k: [r["accuracy"] for r in found if r["kept"] == k] for k in ("exact", "8 bits", "2 bits")}
    mean = {k: sum(v) / len(v) for k, v in of.items()}
    run.check("accuracy with exact activations less that with 8 bits, mean", mean["exact"] - mean["8 bits"],
              between=(-0.02, 0.02), paper="DeiT-Ti on ImageNet: 71.9% exact, 72.1% (released)")  # fmt: skip
    run.check("accuracy with 8 bits, mean", mean["8 bits"], above=0.86)
    run.text(
        "What bits cost",
        "Mean accuracies: "
        + ", ".join(f"{k} {v:.1%}" for k, v in mean.items())
        + f", of {seeds}, {seeds} and 1 trainings.",
    )


def experiment(run: Run, *, seeds: int = 3, epochs: int = 12) -> None:
    """Losses and gradients with quantized memories, the bytes that DeiT-Ti holds, and trainings on digits.

    Args:
        seeds: trainings of each kind (full only).
        epochs: of each training (full only).
    """
    forward_is_exact(run)
    bits_and_gradients(run)
    heads_need_their_own_ranges(run)
    bytes_are_saved(run, 1 if run.quick else 4)
    if not run.quick:
        training_is_the_same(run, seeds, epochs)
