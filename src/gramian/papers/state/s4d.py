"""S4D: a diagonal state space model whose kernel is two lines (Gu et al., 2022)."""

from __future__ import annotations

import itertools
from typing import Any

import joblib
import numpy as np
import torch
from matplotlib import pyplot
from sklearn.model_selection import train_test_split
from torch import Tensor

from gramian import data
from gramian.estimators.series import state_space
from gramian.lab import Card, Run
from gramian.linalg import hippo
from gramian.linalg.scan import lti
from gramian.nn.state import s4d as layers

CARD = Card(
    title="On the Parameterization and Initialization of Diagonal State Space Models",
    row=4,
    year=2022,
    kind="architecture",
    idea="A state space layer with a diagonal complex state matrix: its convolution kernel is one Vandermonde "
    "product. Started from the normal part of the HiPPO matrix (or from a simple formula close to it), it works "
    "as well as the full matrix does.",
    claim="Dropping the low-rank part of HiPPO-LegS keeps its dynamics as the state grows; S4D-LegS, S4D-Inv and "
    "S4D-Lin classify long sequences as S4 does.",
    arxiv="2206.11893",
    keywords=("long sequences", "diagonal state space", "Vandermonde kernel", "HiPPO", "convolution", "DSS"),
    api=(
        "gramian.nn.state.s4d.S4D",
        "gramian.linalg.scan.lti.lti_kernel_diagonal",
        "gramian.linalg.hippo.diagonal.legs_diagonal",
        "gramian.linalg.hippo.diagonal.diagonal_init",
        "gramian.estimators.series.state_space.StateSpaceClassifier",
    ),
    use="from gramian.nn.state import S4D\nlayer = S4D(channels=64, state_size=64)\ny, state = layer(x)",
    reach="Long Range Arena (85% on average) needs a GPU and days; digits read pixel by pixel stand in",
    differs=(
        "The kernel's powers are the outer product of √length coarse and √length fine ones, with phases in float64: "
        "single-precision phases l·dt·Im A reach 1e5 and lose most of their digits.",
        "S4D-Real keeps real parameters throughout, so it has state_size real states instead of complex ones with "
        "idle imaginary parts.",
    ),
    data=("digits", "japanese_vowels_eq"),
)


def _random_system(run: Run, stream: int, channels: int, state_size: int) -> tuple[Tensor, Tensor, Tensor]:
    A, B = hippo.legs_diagonal(state_size)
    C = torch.randn(channels, state_size // 2, dtype=torch.complex128, generator=run.generator(stream))
    return A.expand(channels, -1), B.expand(channels, -1), C


def _by_matrix_powers(A: Tensor, B: Tensor, C: Tensor, dt: Tensor, length: int, method: str) -> Tensor:
    """The oracle: a dense matrix exponential (or inverse), then one matrix product a step."""
    kernels = []
    for channel in range(A.shape[0]):
        dense = torch.diag(torch.cat([A[channel], A[channel].conj()]))
        inputs = torch.cat([B[channel], B[channel].conj()])
        outputs = torch.cat([C[channel], C[channel].conj()])
        identity = torch.eye(len(dense), dtype=dense.dtype)
        step = dense * dt[channel]
        if method == "zoh":
            advance = torch.linalg.matrix_exp(step)
            drive = torch.linalg.solve(dense, (advance - identity) @ inputs)
        else:
            advance = torch.linalg.solve(identity - step / 2, identity + step / 2)
            drive = torch.linalg.solve(identity - step / 2, inputs * dt[channel])
        # doubling: the columns x, Ax, …, A^(m−1)x, then A^m times all of them
        columns, power = drive[:, None], advance
        while columns.shape[1] < length:
            columns = torch.cat([columns, power @ columns], dim=1)
            power = power @ power
        kernels.append((outputs @ columns[:, :length]).real)
    return torch.stack(kernels)


def kernel_is_exact(run: Run, *, length: int = 4096, state_size: int = 64) -> None:
    """The kernel against powers of a dense matrix, in both precisions and both discretizations."""
    dt = torch.tensor([1e-3, 1e-2, 1e-1], dtype=torch.float64)
    A, B, C = _random_system(run, 1, 3, state_size)
    rows = []
    for method in lti.DISCRETIZATIONS:
        true = _by_matrix_powers(A, B, C, dt, length, method)
        double = lti.lti_kernel_diagonal(A, B, C, dt, length, discretization=method)
        low = [x.to(torch.complex64) for x in (A, B, C)]
        # the oracle gets the same rounded numbers, so that what is measured is the computation
        rounded = _by_matrix_powers(*(x.to(torch.complex128) for x in low), dt.float().double(), length, method)
        single = lti.lti_kernel_diagonal(*low, dt.float(), length, discretization=method)
        errors = [_relative(double, true), _relative(single.double(), rounded)]
        rows.append({"discretization": method, "float64": errors[0], "float32": errors[1]})
        run.check(f"{method} kernel equals dense matrix powers over {length} steps, float64", errors[0], below=1e-9)
        run.check(f"{method} kernel equals dense matrix powers over {length} steps, float32", errors[1], below=5e-6)
    run.table("kernel error", rows, f"Relative to the largest entry; {state_size} states, dt = 0.001, 0.01, 0.1.")


def _relative(a: Tensor, b: Tensor) -> float:
    """Worst over the channels of the largest deviation as a share of the largest entry."""
    return float(((a - b).abs().amax(-1) / b.abs().amax(-1)).max())


def convolution_is_recurrence(run: Run, *, length: int = 512) -> None:
    """The layer as a convolution, step by step, and as a convolution of two pieces with the state carried."""
    generator = run.generator(2)
    layer = layers.S4D(8, 32, generator=generator).eval()
    x = torch.randn(2, length, 8, generator=generator)
    with torch.no_grad():
        whole, last = layer(x)
        cut = length // 3
        head, state = layer(x[:, :cut])
        tail, end = layer(x[:, cut:], state)
        system, state, steps = layer.discrete(), None, []
        for t in range(length):
            y, state = layer.step(x[:, t], state, system)
            steps.append(y)
    spread = whole.abs().max()
    stepped, joined = torch.stack(steps, 1), torch.cat([head, tail], 1)
    run.check("convolution = recurrence", float((stepped - whole).abs().max() / spread), below=1e-4)
    run.check(
        "convolution = two convolutions with the state carried",
        float((joined - whole).abs().max() / spread),
        below=1e-4,
    )
    run.check(
        "the carried state is the recurrence's",
        float(((end - state).abs().max() + (last - state).abs().max()) / state.abs().max()),
        below=1e-4,
    )
    run.check("the layer's output depends on its input (its standard deviation)", float(whole.std()), above=1e-3)


def discretizations_agree(run: Run, *, state_size: int = 32, length: int = 256) -> None:
    """DSS's closed form is S4D with B = 1 under zero-order hold; bilinear tends to it as dt → 0."""
    A, _, C = _random_system(run, 3, 1, state_size)
    ones = torch.ones_like(A)
    dt = torch.tensor([0.02], dtype=torch.float64)
    ours = lti.lti_kernel_diagonal(A, ones, C, dt, length)
    # DSS writes K_l = 2 Re Σ C/A (e^{dt A} − 1) e^{l dt A}
    steps = torch.arange(length, dtype=torch.float64)
    terms = C[0] / A[0] * (torch.exp(A[0] * dt) - 1)
    dss = 2 * (terms[:, None] * torch.exp(A[0][:, None] * dt * steps)).sum(0).real
    run.check("DSS's exponential form is S4D with B = 1", _relative(ours, dss[None]), below=1e-6)

    gaps = []
    A, B, C = _random_system(run, 4, 1, 8)
    sizes = [2.0**-k for k in range(4, 10)]
    for size in sizes:
        dt = torch.tensor([size], dtype=torch.float64)
        count = int(2 / size)  # the same stretch of time, 2 units, for every dt
        held = lti.lti_kernel_diagonal(A, B, C, dt, count)
        trapezoid = lti.lti_kernel_diagonal(A, B, C, dt, count, discretization="bilinear")
        gaps.append(_relative(trapezoid, held))
    run.table("bilinear against zero-order hold", [{"dt": d, "gap": g} for d, g in zip(sizes, gaps)])
    ratio = max(b / a for a, b in itertools.pairwise(gaps))
    run.check(
        "the gap of bilinear to zero-order hold shrinks with every halving of dt (worst ratio)", ratio, below=0.75
    )


def normal_part_converges(run: Run, *, state_sizes: tuple[int, ...] = (16, 32, 64, 128, 256)) -> None:
    """At frequencies up to 10 the diagonal system tends to LegS: its error halves with every doubling."""
    omega = torch.linspace(0, 10, 201, dtype=torch.float64)
    errors = []
    for size in state_sizes:
        A, B = hippo.transition("legs", size)
        C = torch.eye(size, dtype=torch.float64)[0]
        true = hippo.transfer(A, B, C, omega)
        diagonal, half_B = hippo.legs_diagonal(size)
        _, V, _, _ = hippo.legs_normal_plus_low_rank(size)
        pairs = torch.full((size // 2,), 2.0, dtype=torch.float64)
        errors.append(float((hippo.transfer(diagonal, half_B, C.to(V.dtype) @ V, omega, pairs) - true).abs().max()))
    ratios = [b / a for a, b in itertools.pairwise(errors)]
    run.table("error of the normal part", [{"states": n, "error, ω ≤ 10": e} for n, e in zip(state_sizes, errors)])
    run.check(
        "the normal part's error at fixed frequencies about halves with every doubling (worst ratio)",
        max(ratios), between=(0.3, 0.6), paper="converges to LegS as N → ∞ (theorem 3)",
    )  # fmt: skip
    top = float(hippo.legs_diagonal(64)[0].imag.max())
    inverse = float(hippo.inverse_diagonal(64).imag.max())
    run.check(
        "S4D-Inv's top eigenvalue is near that of LegS's normal part, N = 64 (relative gap)",
        abs(inverse / top - 1),
        between=(0.013, 0.017),
    )


def show_kernels(run: Run, *, state_size: int = 64) -> None:
    """The first basis kernels and the spectra of the four initializations."""
    figure, axes = pyplot.subplots(2, 3, figsize=(9.6, 4.8))
    length, dt = 1000, torch.tensor([0.01], dtype=torch.float64)
    time = np.arange(length) * 0.01
    dense_A, dense_B = hippo.transition("legs", state_size)
    _, V, _, _ = hippo.legs_normal_plus_low_rank(state_size)
    for panel, init in zip(axes.flat, hippo.DIAGONAL_INITS):
        A, B, multiplicity = hippo.diagonal_init(init, state_size)
        slowest = torch.argsort(A.abs())
        for n in range(4):
            # LegS reads out its own n-th coefficient; the others show their slowest modes
            C = V[n].clone() if init == "legs" else torch.zeros_like(A)
            if init != "legs":
                C[slowest[n]] = 1.0
            kernel = lti.lti_kernel_diagonal(A[None], B[None], C[None], dt, length, multiplicity=multiplicity)[0]
            panel.plot(time, kernel / dt, linewidth=1.2)
        panel.set(title=f"S4D-{'LegS' if init == 'legs' else init.capitalize()}", xlabel="t")
    panel = axes[1, 1]
    for n in range(4):
        exact = hippo.basis("legs", 4, torch.as_tensor(time))[n] * torch.exp(-torch.as_tensor(time))
        panel.plot(time, exact, linewidth=1.2)
    panel.set(title="LegS itself: √(2n+1) Pₙ(2e⁻ᵗ−1) e⁻ᵗ", xlabel="t")
    panel = axes[1, 2]
    for number, init in enumerate(("legs", "inv", "lin")):
        A = hippo.diagonal_init(init, state_size)[0]
        label = {"legs": "LegS", "inv": "Inv", "lin": "Lin"}[init]
        panel.semilogy(np.sort(A.imag.numpy())[1:], ".-", markersize=4, color=f"C{number}", label=label)
    panel.set(title=f"Frequencies Im λ, N = {state_size}", xlabel="mode")
    panel.legend(fontsize=8)
    run.plot(
        "kernels",
        figure,
        "Basis kernels of the diagonal initializations. S4D-LegS draws the polynomials of the full matrix with some "
        "ripple from its highest modes; S4D-Inv has its spectrum in closed form.",
    )


def classifies_digits(run: Run, *, seeds: int = 3, epochs: int = 16) -> None:
    """Every initialization, trained on images read pixel by pixel."""
    digits = data.load("digits")
    series = digits.x[..., None]
    generator = run.generator(5)
    A = hippo.linear_diagonal(16)
    scattered = torch.complex(A.real, A.imag.max() * torch.rand(len(A), generator=generator, dtype=torch.float64))
    variants = {
        "S4D-LegS": ("legs", seeds), "S4D-Inv": ("inv", seeds), "S4D-Lin": ("lin", seeds),
        "S4D-Real": ("real", 1), "random Im A": ((scattered, torch.ones_like(scattered)), 1),
    }  # fmt: skip
    rows = []
    jobs = [(name, init, run.seed + k) for name, (init, count) in variants.items() for k in range(count)]
    classifier = state_space.StateSpaceClassifier
    calls = (joblib.delayed(_train_on_digits)(classifier, series, digits.y, *job, epochs, run.device) for job in jobs)
    trained = joblib.Parallel(n_jobs=2, return_as="generator")(calls)  # small networks: two processes, a thread each
    for row in run.progress(trained, "training S4D on digits", total=len(jobs)):
        rows.append(row)
        run.log(**row)
    means = {name: np.mean([r["accuracy"] for r in rows if r["initialization"] == name]) for name in variants}
    run.table("pixel sequences", rows, "Digits as series of 64 pixels; accuracy on a quarter that was held out.")
    figure, panel = pyplot.subplots(figsize=(6.4, 3.2))
    for number, name in enumerate(variants):
        accuracies = [r["accuracy"] for r in rows if r["initialization"] == name]
        panel.plot([number] * len(accuracies), accuracies, "o", color=f"C{number}")
    panel.axhline(0.94, linestyle=":", linewidth=1)
    panel.set_xticks(range(len(variants)), list(variants))
    panel.set(ylabel="test accuracy", title="Digits, pixel by pixel")
    run.plot("digits", figure, "One dot a seed.")
    for name in ("S4D-LegS", "S4D-Inv", "S4D-Lin"):
        run.check(
            f"{name} reads handwritten digits pixel by pixel (mean accuracy of {seeds} seeds)",
            float(means[name]), above=0.94,
            paper="85% average on Long Range Arena for all three, which needs a GPU and days",
        )  # fmt: skip


def _train_on_digits(
    classifier: type, series: Any, labels: Any, name: str, init: Any, seed: int, epochs: int, device: str
) -> dict[str, Any]:
    """One training, on one thread."""
    torch.set_num_threads(1)
    x_train, x_test, y_train, y_test = train_test_split(
        series, labels, test_size=0.25, random_state=seed, stratify=labels
    )
    model = classifier(
        "s4d", channels=24, state_size=64, epochs=epochs, batch_size=64, lr=0.02, validation_fraction=0.0,
        layer_options={"init": init}, device=device, random_state=seed,
    )  # fmt: skip
    model.fit(x_train, y_train, show_progress=False)
    seconds = model.history_["seconds"][-1]
    return {"initialization": name, "seed": seed, "accuracy": model.score(x_test, y_test), "seconds": seconds}


def classifies_vowels(run: Run, *, epochs: int = 40) -> None:
    """Speakers told apart by twelve cepstral channels of one vowel."""
    vowels = data.load("japanese_vowels_eq")
    model = state_space.StateSpaceClassifier("s4d", epochs=epochs, device=run.device, random_state=run.seed)
    model.fit(vowels.x_train, vowels.y_train, show_progress=False)
    accuracy = float(model.score(vowels.x_test, vowels.y_test))
    run.log(vowels_accuracy=accuracy)
    commonest = float(np.unique(vowels.y_test, return_counts=True)[1].max() / len(vowels.y_test))
    run.check(
        f"S4D tells nine speakers apart (accuracy on the published test set, commonest class {commonest:.2f})",
        accuracy,
        above=0.93,
    )


def experiment(
    run: Run,
    *,
    length: int = 4096,
    state_size: int = 64,
    state_sizes: tuple[int, ...] = (16, 32, 64, 128, 256),
    seeds: int = 3,
    epochs: int = 16,
) -> None:
    """Exactness of the kernel, agreement of its forms, convergence to LegS, and trained layers.

    Args:
        length: steps over which the kernel is compared with dense matrix powers.
        state_size: states of the compared kernel.
        state_sizes: systems whose distance to LegS is measured.
        seeds: trainings of each initialization on the digits (full only).
        epochs: passes over the digits (full only).
    """
    kernel_is_exact(run, length=length, state_size=state_size)
    convolution_is_recurrence(run)
    discretizations_agree(run)
    normal_part_converges(run, state_sizes=state_sizes)
    show_kernels(run)
    if not run.quick:
        classifies_vowels(run)
        classifies_digits(run, seeds=seeds, epochs=epochs)
