"""Learning rates from batch Hessians: random matrices say how the batch size enters (Granziol et al., 2020)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.lab import Card, Run
from gramian.linalg.spectral import lanczos, random_matrix
from gramian.optim import autolr, curvature

CARD = Card(
    title="Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training",
    row=228,
    arxiv="2006.09092",
    year=2020,
    kind="theory",
    idea="A batch's Hessian is the full one plus noise that shrinks with the batch. Random matrix theory says how far "
    "noise moves the outliers and where its bulk ends, and so how the largest stable learning rate depends on the "
    "batch size.",
    claim="The largest curvature of a batch is the full one plus a term in 1/B, so that the largest learning rate of "
    "SGD grows with the batch until a threshold and is flat afterwards; where noise dominates it grows with √B.",
    keywords=("learning rate scaling", "batch size", "Hessian spectrum", "spiked models", "Lanczos", "edge of noise"),
    api=(
        "gramian.optim.autolr.max_learning_rate",
        "gramian.optim.autolr.hessian_noise",
        "gramian.optim.autolr.LanczosLR",
        "gramian.linalg.spectral.random_matrix.spiked_eigenvalues",
        "gramian.linalg.spectral.lanczos.lanczos_quadrature",
        "gramian.optim.curvature.hvp",
        "gramian.optim.curvature.ggn_vp",
    ),
    use="rate = max_learning_rate(model, loss, (x, y), batch=64)\n"
    "scheduler = LanczosLR(optimizer, model, loss)  # scheduler.step(*batch) before optimizer.step()",
    reach="VGG and wide residual networks on CIFAR and ImageNet; a small network on digits stands in",
    differs=(
        "The noise's strength is measured along the top eigenvector. Averaged over all directions, as for white "
        "noise, it comes out eighty times too small on a real network and predicts no effect of the batch size.",
        "Adam's square-root rule is shown as the scaling of the noise's edge, not with trainings by Adam.",
    ),
)


def _wigner(size: int, noise: float, generator: torch.Generator) -> Tensor:
    w = noise * torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.triu(w) + torch.triu(w, 1).mT


def spikes_move_as_predicted(run: Run, size: int = 400, sigma: float = 0.3, draws: int = 6) -> None:
    """Known outliers in known noise: eigenvalues by decomposition against the formula."""
    from matplotlib import pyplot

    spikes = torch.tensor([20.0, 12.0, 6.0, 1.0], dtype=torch.float64)
    base = torch.diag(torch.cat([spikes, torch.zeros(size - 4, dtype=torch.float64)]))
    figure, panels = pyplot.subplots(1, 2, figsize=(8.4, 3.2))
    rows = []
    for panel, effective in zip(panels, (10, 40)):
        noise = sigma / effective**0.5
        generator = run.generator(effective)
        spectra = torch.stack([torch.linalg.eigvalsh(base + _wigner(size, noise, generator)) for _ in range(draws)])
        found = spectra.mean(0).flip(0)[:4]
        predicted = random_matrix.spiked_eigenvalues(spikes, noise, size)
        edge = random_matrix.semicircle_edge(noise, size)
        for spike, measured, formula in zip(spikes.tolist(), found.tolist(), predicted.tolist()):
            rows.append({"b": effective, "spike": spike, "measured": measured, "predicted": formula})
        worst = float(((found - predicted).abs() / predicted)[:3].max())
        run.check(f"b = {effective}: spikes 20, 12, 6 against the formula (worst relative error)", worst, below=0.02)
        gap = abs(float(found[3]) / edge - 1)
        run.check(f"b = {effective}: the spike 1 is lost at the edge of the bulk (relative gap)", gap, below=0.03)
        grid = torch.linspace(-1.2 * edge, 1.2 * edge, 400, dtype=torch.float64)
        panel.hist(spectra.flatten().numpy(), bins=120, density=True, alpha=0.6)
        panel.plot(grid, random_matrix.semicircle_density(grid, noise, size), color="C1")
        for value in predicted[:3].tolist():
            panel.axvline(value, color="C3", lw=1, ls="--")
        panel.set(xlabel="eigenvalue", ylabel="density", title=f"b = {effective}", yscale="log", ylim=(1e-4, 1))
    run.table("spikes", rows, f"{size} parameters, noise {sigma} an entry over √b; means of {draws} draws.")
    run.plot("spikes", figure, "Outliers in noise; line, the semicircle; dashed, where the outliers should be.")


def rate_follows_the_edge(run: Run, size: int = 300) -> None:
    """2/λ₁ against b: the square root where noise dominates, constant where the spike does."""
    generator = run.generator(3)
    exponents = {}
    for name, spike, batches in (("noise dominates", 0.5, (1, 4, 16, 64)), ("spike dominates", 30.0, (64, 256, 1024))):
        rates = []
        for effective in batches:
            matrix = _wigner(size, 1.0 / effective**0.5, generator)
            matrix[0, 0] += spike
            rates.append(2 / float(torch.linalg.eigvalsh(matrix)[-1]))
        exponents[name] = float(np.polyfit(np.log(batches), np.log(rates), 1)[0])
    run.check("noise dominates: exponent of the largest rate in b", exponents["noise dominates"], between=(0.45, 0.55),
              paper="√B for adaptive methods; the noise's edge, not Adam, is measured")  # fmt: skip
    run.check("spike dominates: exponent of the largest rate in b", abs(exponents["spike dominates"]), below=0.05)


def _loss(module: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(module(x), y)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)


def _network(seed: int, epochs: int = 0, loss: Any = _loss, targets: Any = None) -> nn.Module:
    """64–16–10 with tanh, 1,210 parameters, trained for some epochs."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    for layer in (net[0], net[2]):
        nn.init.uniform_(layer.weight, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    if epochs:
        x, y = _digits()
        data = (x, y if targets is None else targets)
        optim.fit(net, data, loss, epochs=epochs, batch_size=64, lr=5e-3, generator=generator, show_progress=False)
    return net


def lanczos_is_the_dense_spectrum(run: Run) -> None:
    """Extreme eigenvalues and moments of a real network's Hessian, against the dense matrix."""
    from matplotlib import pyplot

    x, y = (t[:200] for t in _digits())
    net = nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10)).double()
    generator = run.generator(4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    operator = curvature.Hessian(net, _loss, (x.double(), y))
    layout = operator.layout
    dense = torch.func.hessian(lambda w: curvature.loss_at(net, _loss, (x.double(), y), layout, w))(layout.read(net))
    exact = torch.linalg.eigvalsh(dense)
    low, high = lanczos.extreme_eigenvalues(operator, operator.size, steps=60, generator=generator)
    gap = max(abs(low - float(exact[0])), abs(high - float(exact[-1]))) / float(exact.abs().max())
    run.check(f"extreme eigenvalues of a Hessian of {operator.size} parameters, 60 products (relative gap)", gap,
              below=1e-4)  # fmt: skip
    density = lanczos.lanczos_quadrature(operator, operator.size, steps=20, probes=48, generator=generator)
    square = float(exact.square().sum())
    run.check("its squared Frobenius norm by quadrature (relative gap)", abs(density.trace(torch.square) / square - 1),
              below=0.15)  # fmt: skip
    trace = lanczos.hutch_plus_plus(operator, operator.size, 150, generator=generator).value
    run.check("its trace by Hutch++, 150 products (relative gap)", abs(trace / float(exact.sum()) - 1), below=0.05)
    inputs = x.double()
    ggn = curvature.ggn_vp(net, F.cross_entropy, inputs, y, operator.point.detach())
    rows = curvature.jacobian(net, inputs)
    p = net(inputs).detach().softmax(-1)
    moved = (rows @ operator.point.detach()).reshape(p.shape)
    formula = rows.mT @ ((p * moved - p * (p * moved).sum(-1, keepdim=True)) / len(p)).reshape(-1)
    gap = float((ggn - formula).norm() / formula.norm())
    run.check("Gauss–Newton product against Jᵀ(diag p − ppᵀ)J (relative gap)", gap, below=1e-8)
    figure, panel = pyplot.subplots()
    grid = torch.linspace(float(exact[0]) - 0.1, float(exact[-1]) + 0.1, 500, dtype=torch.float64)
    panel.hist(exact.numpy(), bins=80, density=True, alpha=0.5, label="dense")
    panel.semilogy(grid, density.density(grid, 0.03).clamp(min=1e-5), color="C1", label="Lanczos quadrature")
    panel.set(xlabel="eigenvalue of the Hessian", ylabel="density", ylim=(1e-3, None))
    panel.legend()
    run.plot("density", figure, "The Hessian's spectrum of a small network, by products alone and by decomposition.")


def curvature_falls_with_the_batch(run: Run, batches: tuple[int, ...] = (8, 32, 128, 512), draws: int = 16) -> None:
    """A trained network on digits: the top eigenvalue of batches, measured and predicted from one noise figure."""
    from matplotlib import pyplot

    data = _digits()
    net = _network(run.seed, epochs=3)
    noise = autolr.hessian_noise(net, _loss, data, generator=run.generator(5))
    generator = run.generator(6)
    sizes = [*batches, len(data[0])]
    rows = []
    for batch in sizes:
        rate = autolr.max_learning_rate(net, _loss, data, batch, measured=True, repeats=draws, generator=generator)
        rows.append({"batch": batch, "measured": 2 / rate, "predicted": noise.largest(batch)})
    full = rows[-1]["measured"]
    run.table("curvature", rows, f"Top eigenvalue of batch Hessians on digits, means of {draws}; 1,210 parameters.")
    run.check(
        f"batch {batches[0]}: top eigenvalue as a multiple of the full one", rows[0]["measured"] / full, above=1.1
    )
    run.check(f"batch {batches[-1]}: the same", rows[len(batches) - 1]["measured"] / full, between=(0.95, 1.05))
    worst = max(abs(r["predicted"] / r["measured"] - 1) for r in rows)
    run.check("predicted against measured top eigenvalue, all batches (worst relative error)", worst, below=0.35)
    share = (rows[1]["predicted"] - full) / (rows[1]["measured"] - full)
    run.check(f"batch {batches[1]}: predicted excess over the full eigenvalue as a share of the measured one", share,
              between=(0.15, 1.7))  # fmt: skip
    figure, panel = pyplot.subplots()
    panel.semilogx([r["batch"] for r in rows], [r["measured"] for r in rows], "o-", label="measured")
    grid = np.geomspace(4, len(data[0]) - 1, 60)
    panel.semilogx(grid, [noise.largest(float(b)) for b in grid], "--", label="predicted")
    panel.axhline(noise.top, lw=1, color="C7")
    panel.set(xlabel="batch size", ylabel="largest eigenvalue")
    panel.legend()
    run.plot("batches", figure, "Small batches are sharper. The prediction takes two figures, λ and the noise.")


def _square_loss(module: Any, x: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (module(x) - y).square().sum(-1).mean()


def _survives(net: nn.Module, data: tuple[Tensor, Tensor], lr: float, batch: int, steps: int, seed: int) -> bool:
    """Whether SGD at this rate keeps the loss over all samples, looked at every fifth step, below twice the first.

    A wider limit would let full-batch descent leave for flatter ground, as it does above 2/λ, and come back.
    """
    generator = torch.Generator().manual_seed(seed)
    layout = curvature.Layout(net)
    point = layout.read(net).requires_grad_()
    limit = 2 * float(curvature.loss_at(net, _square_loss, data, layout, point.detach()))
    for step in range(1, steps + 1):
        chosen = torch.randperm(len(data[0]), generator=generator)[:batch]
        value = curvature.loss_at(net, _square_loss, tuple(t[chosen] for t in data), layout, point)
        (grad,) = torch.autograd.grad(value, point)
        point = (point.detach() - lr * grad).requires_grad_()
        if step % 5 == 0:
            whole = float(curvature.loss_at(net, _square_loss, data, layout, point.detach()))
            if not whole <= limit:
                return False
    return True


def sgd_diverges_where_predicted(run: Run, batches: tuple[int, ...] = (4, 16, 64, 256), steps: int = 120) -> None:
    """The largest rate at which SGD stays finite, by bisection, beside 2/λ₁(B)."""
    from matplotlib import pyplot

    x, y = _digits()
    data = (x, F.one_hot(y, 10).float())
    net = _network(run.seed, epochs=3, loss=_square_loss, targets=data[1])
    rows = []
    for batch in run.progress([*batches, len(x)], "bisecting the learning rate"):
        predicted = autolr.max_learning_rate(net, _square_loss, data, batch, generator=run.generator(8))
        low, high = 0.1 * predicted, 10 * predicted
        for _ in range(6):
            middle = (low * high) ** 0.5
            alive = all(_survives(net, data, middle, batch, steps, run.seed + k) for k in range(2))
            low, high = (middle, high) if alive else (low, middle)
        rows.append({"batch": batch, "boundary": (low * high) ** 0.5, "2/λ₁(B)": predicted})
    run.table("boundary", rows, f"Squared loss on digits; {steps} steps of SGD diverge at twice their first loss.")
    fall = max(a["boundary"] / b["boundary"] for a, b in itertools.pairwise(rows))
    run.check("the boundary of SGD never falls as the batch grows (worst ratio of neighbours)", fall, below=1.15)
    first, middle, late = (rows[k]["boundary"] for k in (0, -3, -2))
    run.check(f"the boundary at batch {batches[-1]} as a multiple of that at {batches[0]}", late / first, above=1.15)
    claim = f"saturation: the boundary at batch {batches[-1]} as a multiple of that at {batches[-2]}"
    run.check(claim, late / middle, below=1.15)
    ratios = [r["boundary"] / r["2/λ₁(B)"] for r in rows]
    run.check("boundary over prediction, largest", max(ratios), below=2)
    run.check("boundary over prediction, smallest", min(ratios), above=0.5)
    figure, panel = pyplot.subplots()
    panel.loglog([r["batch"] for r in rows], [r["boundary"] for r in rows], "o-", label="SGD diverges above")
    panel.loglog([r["batch"] for r in rows], [r["2/λ₁(B)"] for r in rows], "s--", label="2/λ₁(B), predicted")
    panel.set(xlabel="batch size", ylabel="learning rate")
    panel.legend()
    run.plot("boundary", figure, "The learning rate's limit rises with the batch, then is flat.")


def experiment(run: Run, *, size: int = 400, draws: int = 16) -> None:
    """Spikes in noise, Lanczos against dense Hessians, batch curvature on digits, the boundary of SGD.

    Args:
        size: rows of the synthetic matrices.
        draws: batches of each size whose top eigenvalue is averaged.
    """
    spikes_move_as_predicted(run, size)
    rate_follows_the_edge(run)
    lanczos_is_the_dense_spectrum(run)
    run.text(
        "noise",
        "One figure, how strongly the Hessians of single samples scatter along the top eigenvector, predicts how "
        "much sharper small batches are, and with it how far the learning rate may be raised with the batch.",
    )
    if not run.quick:
        curvature_falls_with_the_batch(run, draws=draws)
        sgd_diverges_where_predicted(run)
