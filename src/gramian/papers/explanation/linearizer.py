"""Linearizers: a matrix between two invertible networks is a nonlinear map with a linear algebra (2025)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import joblib
import torch
from sklearn.datasets import make_moons
from torch import Tensor

from gramian import optim
from gramian.analysis.metrics import mmd
from gramian.lab import Card, Run
from gramian.models.generative import one_step_flow
from gramian.nn import invertible, linearizer

CARD = Card(
    title="Who Said Neural Networks Aren't Linear?",
    row=87,
    arxiv="2510.08570",
    year=2025,
    kind="architecture",
    idea="Put a matrix between two invertible networks. With the additions that the networks induce, the whole is "
    "linear, so that singular vectors, pseudo-inverses, projections and powers of a nonlinear map are those of the "
    "matrix.",
    claim="Linearizers that share a network compose to one; so hundreds of sampling steps of a flow collapse into one, "
    "and a diagonal of zeros and ones makes a network idempotent.",
    keywords=(
        "invertible network",
        "coupling",
        "superposition",
        "flow matching",
        "one-step generation",
        "idempotent",
        "pseudo-inverse",
    ),
    api=(
        "gramian.nn.linearizer.Linearizer",
        "gramian.nn.linearizer.Projector",
        "gramian.nn.invertible.InvertibleNet",
        "gramian.models.generative.one_step_flow.OneStepFlow",
    ),
    use="g = InvertibleNet((2,))\nf = Linearizer(g, torch.randn(2, 2))\nback = f.pinv(); twice = f.compose(f); "
    "left, values, right = f.svd()",
    reach="images of faces and digits by large networks, and style transfer, are not repeated: the flow is trained on "
    "points of two moons",
    differs=(
        "The matrix gives the velocity; in the released code it gives the clean end, and the last step is left out.",
        "The released one-step form of Runge-Kutta leaves out that later stages build on earlier ones, so that it is "
        "not the product of its own sampling steps; here it is.",
        "Encoders are kept from collapsing by the volume they stretch. The released code uses reconstruction errors "
        "that a trained image network judges, which say nothing about points.",
        "Noise and data have encoders of their own; in the released code that is a flag.",
        "A normalization is set by a call, not by the first batch that passes: there a loaded network sets it again.",
    ),
)

WIDE = torch.float64


def _networks(run: Run, count: int, shape: tuple[int, ...] = (6,), squeeze: bool = False) -> list[Any]:
    return [
        invertible.InvertibleNet(shape, blocks=4, hidden=16, squeeze=squeeze, generator=run.generator(i)).to(WIDE)
        for i in range(count)
    ]


def _draw(run: Run, *shape: int, stream: int = 50) -> Tensor:
    return torch.randn(*shape, generator=run.generator(stream), dtype=WIDE)


def _matrix(run: Run, stream: int) -> Tensor:
    """A random matrix of side 6 that keeps lengths on average."""
    return _draw(run, 6, 6, stream=stream) / 6**0.5


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def superposition(run: Run) -> None:
    """Inverses, and f(a ⊙ x ⊕ b ⊙ z) against a ⊙ f(x) ⊕ b ⊙ f(z); ordinary superposition must fail."""
    gx, gy = _networks(run, 2)
    (image,) = _networks(run, 1, (1, 8, 8), squeeze=True)
    x, z, pictures = _draw(run, 32, 6), _draw(run, 32, 6, stream=51), _draw(run, 8, 1, 8, 8, stream=52)
    error = max(_apart(gx.inverse(gx(x)), x), _apart(image.inverse(image(pictures)), pictures))
    run.check("g⁻¹(g(x)) against x, vectors and images (relative)", error, below=1e-8, paper="exact inverse")
    f = linearizer.Linearizer(gx, _matrix(run, 53), gy)
    whole = f(linearizer.combine(gx, (0.7, -1.3), (x, z)))
    parts = linearizer.combine(gy, (0.7, -1.3), (f(x), f(z)))
    run.check("superposition in the induced spaces (relative)", _apart(whole, parts), below=1e-6, paper="linear")
    plain = _apart(f(0.7 * x - 1.3 * z), 0.7 * f(x) - 1.3 * f(z))
    run.check("superposition with ordinary sums fails by (relative)", plain, above=0.05, paper="nonlinear")


def linear_algebra(run: Run) -> None:
    """Penrose's four conditions, the adjoint, singular vectors and compositions, all by what the maps do to samples."""
    gx, gy = _networks(run, 2)
    low_rank = _draw(run, 6, 3, stream=1) @ _draw(run, 3, 6, stream=2) / 18**0.5
    f = linearizer.Linearizer(gx, low_rank, gy)
    back, adjoint = f.pinv(1e-9), f.transpose()
    x, z, y, w = (_draw(run, 32, 6, stream=10 + i) for i in range(4))
    conditions = (
        _apart(f(back(f(x))), f(x)),
        _apart(back(f(back(y))), back(y)),
        _apart(linearizer.inner(gy, f(back(y)), w), linearizer.inner(gy, y, f(back(w)))),
        _apart(linearizer.inner(gx, back(f(x)), z), linearizer.inner(gx, x, back(f(z)))),
    )
    run.check("Penrose's four conditions, worst (relative)", max(conditions), below=1e-6, paper="the pseudo-inverse")
    moved = _apart(back(f(x)), x)
    run.check("a map of rank 3 forgets: f⁺(f(x)) is away from x by", moved, above=0.05)
    error = _apart(linearizer.inner(gy, f(x), y), linearizer.inner(gx, x, adjoint(y)))
    run.check("⟨f(x), y⟩ against ⟨x, f*(y)⟩ (relative)", error, below=1e-6, paper="the transpose")

    left, values, right = f.svd()
    scaled = torch.cat([linearizer.scale(gy, left[i : i + 1], float(values[i])) for i in range(3)])
    run.check("f(vᵢ) against σᵢ ⊙ uᵢ, i = 1, 2, 3 (relative)", _apart(f(right[:3]), scaled), below=1e-6, paper="SVD")
    again = linearizer.Linearizer(gy, _matrix(run, 3), gx)
    error = _apart(again.compose(f)(x), again(f(x)))
    run.check("the composed map against one map after the other (relative)", error, below=1e-6, paper="composes")
    full = linearizer.Linearizer(gx, _matrix(run, 4), gy)
    run.check("f⁻¹(f(x)) against x (relative)", _apart(full.inverse()(full(x)), x), below=1e-6)


def projection(run: Run) -> None:
    """A network that is its own square, without any training; how much it changes at first; what it can learn."""
    (g,) = _networks(run, 1)
    f = linearizer.Projector(g, _draw(run, 6, stream=5))
    x = _draw(run, 32, 6)
    run.check("f(f(x)) against f(x), untrained (relative)", _apart(f(f(x)), f(x)), below=1e-6, paper="idempotent")
    run.check("f(x) is away from x by (relative)", _apart(f(x), x), above=0.05, paper="no identity")
    f(x).square().sum().backward()
    run.check("logits that a gradient reaches, of 6", int((f.logits.grad != 0).sum()), equals=6, paper="trainable")


def one_step(run: Run) -> None:
    """All sampling steps as one matrix, of a flow drawn at random: Euler's and Runge-Kutta's."""
    data, noise = _networks(run, 2)
    velocity = one_step_flow.TimeMatrix(6, rank=3, generator=run.generator(9)).to(WIDE)
    flow = one_step_flow.OneStepFlow(data, velocity, noise)
    x = _draw(run, 32, 6)
    errors = {m: _apart(flow.collapse(100, m)(x), flow.sample(x, 100, m)) for m in ("euler", "rk4")}
    run.check("one step against 100, Euler and Runge-Kutta, the worse (relative)", max(errors.values()), below=1e-5,
              paper="equal")  # fmt: skip
    short = _apart(flow.collapse(1, "euler")(x), flow.sample(x, 100, "euler"))
    run.check("a single Euler step is away from 100 by (relative)", short, above=0.05, paper="not that step")
    fine = _apart(flow.collapse(20, "rk4")(x), flow.sample(x, 2000, "euler"))
    coarse = _apart(flow.collapse(20, "euler")(x), flow.sample(x, 2000, "euler"))
    run.check(
        "20 Runge-Kutta steps: error over that of 20 Euler steps", fine / max(coarse, 1e-12), below=0.2, paper="order 4"
    )


def picture_of_a_plane(run: Run) -> None:
    """Lines that are straight for the induced addition, and where a linearizer takes them."""
    from matplotlib import pyplot

    gx, gy = _networks(run, 2, (2,))
    turn = linearizer.Linearizer(gx, torch.tensor([[0.6, -0.8], [0.5, 0.4]], dtype=WIDE), gy)
    along = torch.linspace(-2, 2, 80, dtype=WIDE)
    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.6))
    for level in torch.linspace(-2, 2, 9, dtype=WIDE):
        fixed = torch.full_like(along, float(level))
        for color, pair in (("C0", (along, fixed)), ("C1", (fixed, along))):
            line = gx.inverse(torch.stack(pair, 1))
            for panel, shown in zip(panels, (line, turn(line))):
                panel.plot(*shown.detach().T.numpy(), color=color, lw=1)
    panels[0].set_title("the inputs' straight lines")
    panels[1].set_title("where f takes them")
    run.plot("plane", figure, "Each curve is a straight line for the addition that a random invertible network "
             "induces; f takes lines to lines.")  # fmt: skip


def moons(samples: int, seed: int) -> Tensor:
    """Points of two moons, centred and of about unit spread."""
    points, _ = make_moons(samples, noise=0.05, random_state=seed)
    return (torch.tensor(points, dtype=torch.float32) - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.5])


def _train(seed: int, steps: int, network: Callable[..., Any], flow_of: Callable[..., Any]) -> dict[str, Tensor]:
    """A flow on two moons; samples of it and of what it is compared with, from one noise."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1000 + seed)
    data = network((2,), blocks=4, hidden=32, generator=generator)
    noise = network((2,), blocks=2, hidden=32, generator=generator)
    points = moons(4000, seed)
    data.initialize(points)
    flow = flow_of(data, one_step_flow.TimeMatrix(2, rank=2, generator=generator), noise)
    optim.fit(
        flow, points, lambda module, batch: module.loss(batch, generator), steps=steps, batch_size=256, lr=3e-3,
        schedule="cosine", clip=1.0, generator=generator, show_progress=False,
    )  # fmt: skip
    start = torch.randn(2000, 2, generator=generator)
    normal = start @ torch.linalg.cholesky(torch.cov(points.T)).mT + points.mean(0)
    return {
        "one step (100 collapsed)": flow.collapse(100)(start).detach(),
        "100 steps": flow.sample(start, 100),
        "a single Euler step": flow.sample(start, 1),
        "a normal of the data's moments": normal,
        "noise": start,
        "other points of the data": moons(2000, 500 + seed),
    }


def samples_follow_the_data(run: Run, seeds: int, steps: int) -> None:
    """Distances of samples to held-out points, as maximum mean discrepancies at a quarter of the median distance."""
    jobs = joblib.Parallel(n_jobs=2)
    made = jobs(
        joblib.delayed(_train)(run.seed + s, steps, invertible.InvertibleNet, one_step_flow.OneStepFlow)
        for s in range(seeds)
    )
    found: list[dict[str, float]] = []
    for seed, samples in enumerate(made):
        test = moons(2000, 900 + run.seed + seed)
        width = mmd.median_distance(test) / 4
        found.append({name: mmd.mmd_squared(points, test, width) for name, points in samples.items()})
    rows = [{"samples": name, **{f"seed {s}": d[name] for s, d in enumerate(found)}} for name in found[0]]
    run.table("distances", rows, "Squared maximum mean discrepancy to 2,000 held-out points of two moons.")
    one, hundred = "one step (100 collapsed)", "100 steps"
    worst = max(abs(d[one] / d[hundred] - 1) for d in found)
    run.check("one step's distance to the data against 100 steps' (relative)", worst, below=0.1, paper="equal quality")
    run.check("one step's distance over noise's, worst seed", max(d[one] / d["noise"] for d in found), below=0.2)
    ratio = max(d[one] / d["a normal of the data's moments"] for d in found)
    run.check("one step's distance over that of a fitted normal, worst seed", ratio, below=0.5)
    _plot(run, made[0])


def _plot(run: Run, samples: dict[str, Tensor]) -> None:
    from matplotlib import pyplot

    names = ("noise", "a single Euler step", "one step (100 collapsed)", "other points of the data")
    figure, panels = pyplot.subplots(1, 4, figsize=(11, 3), sharex=True, sharey=True)
    for panel, name in zip(panels, names):
        panel.scatter(*samples[name][:1000].T.numpy(), s=2, color="C0")
        panel.set(title=name, xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    run.plot("samples", figure, "Noise becomes two moons by one matrix between two invertible networks.")


def experiment(run: Run, *, seeds: int = 2, steps: int = 500) -> None:
    """Superposition, linear algebra, projections, collapsed sampling, and (full) a flow trained on two moons.

    Args:
        seeds: trainings of the flow (full only).
        steps: of each training (full only).
    """
    superposition(run)
    linear_algebra(run)
    projection(run)
    one_step(run)
    picture_of_a_plane(run)
    rows = [{"claim": c.claim, "measured": c.measured} for c in run.checks]
    run.table("identities", rows, "Networks drawn at random, in float64.")
    if not run.quick:
        samples_follow_the_data(run, seeds, steps)
    run.text(
        "what it shows",
        "Linear is a word about a pair of spaces. These networks bend every ordinary line, yet they add, project and "
        "invert as matrices do, because they are matrices between two changes of coordinates; and a hundred steps of "
        "a flow are one product, computed once.",
    )
