"""A product with the inverse Fisher matrix of 64 gradients of a million weights, against conjugate gradients."""

import torch

from gramian.atlas.bench import Benchmark, Contender
from gramian.linalg.factor.window import WindowInverse

DAMP = 1e-4


def problem(size, window):
    """Gradients that share a direction, as those of one network do, and a vector."""
    g = torch.Generator().manual_seed(0)
    common = torch.randn(size, generator=g)
    rows = torch.randn(window, size, generator=g) * torch.logspace(0, -2, window)[:, None] + 0.1 * common
    return rows.div_(size**0.5), torch.randn(size, generator=g)


def ours(**size):
    rows, x = problem(**size)
    inverse = WindowInverse.of(rows, DAMP)
    inverse.solve(x)
    return lambda: inverse.solve(x)


def with_setup(**size):
    """The Gram matrix and its factorization as well."""
    rows, x = problem(**size)
    return lambda: WindowInverse.of(rows, DAMP).solve(x)


def conjugate_gradients(**size):
    """To a residual of 1e-5, products with F as two passes over the gradients."""
    rows, x = problem(**size)

    def product(v):
        return DAMP * v + rows.mT @ (rows @ v) / len(rows)

    def run():
        solution = torch.zeros_like(x)
        residual, direction = x.clone(), x.clone()
        norm = residual @ residual
        goal = 1e-10 * norm
        for _ in range(500):
            image = product(direction)
            step = norm / (direction @ image)
            solution += step * direction
            residual -= step * image
            fresh = residual @ residual
            if fresh <= goal:
                break
            direction = residual + fresh / norm * direction
            norm = fresh
        return solution

    return run


def accuracy():
    """Relative residual of F times the answer, in float64."""
    size = {"size": 100_000, "window": 64}
    rows, x = (t.double() for t in problem(**size))
    errors = {}
    for name, prepare in (("gramian", ours), ("conjugate gradients", conjugate_gradients)):
        y = prepare(**size)().double()
        residual = DAMP * y + rows.mT @ (rows @ y) / len(rows) - x
        errors[f"{name}: relative residual at d = 100,000"] = float(residual.norm() / x.norm())
    return errors


BENCHMARK = Benchmark(
    title="Inverse Fisher matrix times a vector, d = 1,000,000, 64 gradients, float32",
    contenders=(
        Contender("gramian", ours),
        Contender("gramian, with the set-up", with_setup, rounds=3),
        Contender("conjugate gradients", conjugate_gradients, rounds=3),
    ),
    sizes={"full": {"size": 1_000_000, "window": 64}, "tiny": {"size": 1000, "window": 4}},
    rounds=5,
    accuracy=accuracy,
    notes=("No d × d matrix exists in any of them.",),
)
