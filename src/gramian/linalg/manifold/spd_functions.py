"""Functions of symmetric matrices, differentiable twice, also where eigenvalues meet.

A function f of a symmetric matrix A = U diag(λ) Uᵀ is f(A) = U diag(f(λ)) Uᵀ. Differentiating the
eigendecomposition itself divides by λᵢ − λⱼ and gives NaN at the identity; here the derivatives are
written with divided differences instead (Daleckii and Krein, 1951), which stay finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "EXP",
    "LOG",
    "NotPositiveDefiniteError",
    "SpectralFunction",
    "check_spd",
    "function_derivative",
    "lyapunov",
    "matrix_exp",
    "matrix_inverse",
    "matrix_log",
    "matrix_power",
    "matrix_sqrt",
    "power",
    "require_symmetric",
    "symmetric_function",
    "symmetric_to_vector",
    "symmetrize",
    "vector_to_symmetric",
]


class NotPositiveDefiniteError(ValueError):
    """A matrix that must be symmetric positive definite is not."""


@dataclass(frozen=True)
class SpectralFunction:
    """A scalar function with what its matrix version needs.

    Args:
        name: for messages.
        value: f, elementwise.
        derivative: f′.
        second: f″.
        divided: (a, b) → (f(a) − f(b)) / (a − b) without cancellation, where a closed form is known;
            otherwise the quotient is taken, and f′ of the midpoint where a and b are within the cube
            root of the rounding unit (there both forms err equally).
        positive: whether f is defined on positive numbers only.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    second: Callable[[Tensor], Tensor]
    divided: Callable[[Tensor, Tensor], Tensor] | None = None
    positive: bool = False

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """The first divided difference f[a, b]."""
        if self.divided is not None:
            return self.divided(a, b)
        gap = a - b
        close = gap.abs() <= _close(a) * torch.maximum(a.abs(), b.abs()).clamp(min=torch.finfo(a.dtype).tiny)
        quotient = (self.value(a) - self.value(b)) / torch.where(close, torch.ones_like(gap), gap)
        return torch.where(close, self.derivative((a + b) / 2), quotient)

    def second_difference(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """The second divided difference f[a, b, c], symmetric in its arguments."""
        points = torch.stack(torch.broadcast_tensors(a, b, c))
        low, middle, high = points.sort(dim=0).values
        gap = high - low
        close = gap <= _close(gap) * torch.maximum(low.abs(), high.abs()).clamp(min=torch.finfo(gap.dtype).tiny)
        quotient = self.difference(high, middle) - self.difference(middle, low)
        quotient = quotient / torch.where(close, torch.ones_like(gap), gap)
        return torch.where(close, self.second(points.mean(dim=0)) / 2, quotient)


def _close(like: Tensor) -> float:
    return torch.finfo(like.dtype).eps ** (1 / 3)


def _ratio(numerator: Tensor, denominator: Tensor, limit: Tensor | float) -> Tensor:
    zero = denominator == 0
    return torch.where(zero, torch.as_tensor(limit, dtype=denominator.dtype), numerator / denominator.where(~zero, 1.0))


def _exp_divided(a: Tensor, b: Tensor) -> Tensor:
    half = (a - b) / 2
    return torch.exp((a + b) / 2) * _ratio(torch.sinh(half), half, 1.0)


def _log_divided(a: Tensor, b: Tensor) -> Tensor:
    gap = a - b
    return _ratio(torch.log1p(gap / b), gap, 1 / b)


EXP = SpectralFunction("exp", torch.exp, torch.exp, torch.exp, _exp_divided)
LOG = SpectralFunction("log", torch.log, lambda x: 1 / x, lambda x: -1 / x**2, _log_divided, positive=True)


def power(exponent: float | int) -> SpectralFunction:
    """X ↦ x^exponent on the positive numbers."""
    p = float(exponent)

    def divided(a: Tensor, b: Tensor) -> Tensor:
        logarithm = torch.log1p((a - b) / b)
        return b ** (p - 1) * _ratio(torch.expm1(p * logarithm), torch.expm1(logarithm), p)

    return SpectralFunction(
        f"power {p:g}",
        lambda x: x**p,
        lambda x: p * x ** (p - 1),
        lambda x: p * (p - 1) * x ** (p - 2),
        divided,
        positive=True,
    )


def symmetrize(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """(A + Aᵀ)/2."""
    return (matrix + matrix.mT) / 2


def _decompose(matrix: Tensor, function: SpectralFunction) -> tuple[Tensor, Tensor]:
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError(
            f"{function.name} of a matrix that holds NaN or infinity; remove or impute those entries first"
        )
    values, vectors = torch.linalg.eigh(matrix)
    if function.positive and values.numel() and float(values.min()) <= 0:
        raise NotPositiveDefiniteError(
            f"{function.name} needs a positive definite matrix; the smallest eigenvalue is {float(values.min()):.3g}. "
            "A rank-deficient covariance becomes one with shrinkage, S + εI"
        )
    return values, vectors


def _sandwich(vectors: Tensor, middle: Tensor) -> Tensor:
    return vectors @ middle @ vectors.mT


class _Value(torch.autograd.Function):
    """f(A)."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, function: SpectralFunction) -> Tensor:
        values, vectors = _decompose(matrix, function)
        ctx.save_for_backward(matrix, values, vectors)
        ctx.function = function
        return (vectors * function.value(values).unsqueeze(-2)) @ vectors.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        matrix, values, vectors = ctx.saved_tensors
        return _Derivative.apply(matrix, symmetrize(grad), values, vectors, ctx.function), None


class _Derivative(torch.autograd.Function):
    """Df(A)[H] = U (F ∘ (Uᵀ H U)) Uᵀ with F_ij = f[λᵢ, λⱼ]; self-adjoint in H."""

    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, direction: Tensor, values: Tensor, vectors: Tensor, function: SpectralFunction
    ) -> Tensor:
        ctx.save_for_backward(matrix, direction, values, vectors)
        ctx.function = function
        differences = function.difference(values.unsqueeze(-1), values.unsqueeze(-2))
        return _sandwich(vectors, differences * (vectors.mT @ direction @ vectors))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        matrix, direction, values, vectors = ctx.saved_tensors
        grad = symmetrize(grad)
        to_direction = _Derivative.apply(matrix, grad, values, vectors, ctx.function)
        to_matrix = _Second.apply(direction, grad, values, vectors, ctx.function) if ctx.needs_input_grad[0] else None
        return to_matrix, to_direction, None, None, None


class _Second(torch.autograd.Function):
    """D²f(A)[H, K]: entry ij in the eigenbasis is Σₖ f[λᵢ, λₖ, λⱼ] (h_ik k_kj + k_ik h_kj)."""

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, second: Tensor, values: Tensor, vectors: Tensor, function: SpectralFunction
    ) -> Tensor:
        shape, n = first.shape, first.shape[-1]
        vectors = vectors.expand(shape).reshape(-1, n, n)
        values = values.expand(shape[:-1]).reshape(-1, n)
        first, second = (vectors.mT @ m.reshape(-1, n, n) @ vectors for m in (first, second))
        result = torch.empty_like(first)
        chunk = max(1, (1 << 24) // n**3)  # the n³ table of second differences is the only large thing here
        for start in range(0, len(result), chunk):
            v, h, k = (t[start : start + chunk] for t in (values, first, second))
            table = function.second_difference(v[:, :, None, None], v[:, None, :, None], v[:, None, None, :])
            pairs = torch.einsum("bikj,bik,bkj->bij", table, h, k)
            result[start : start + chunk] = pairs + pairs.mT
        return _sandwich(vectors, result).reshape(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise NotImplementedError("third derivatives of a symmetric matrix function are not implemented")


def symmetric_function(matrix: Float[Tensor, "*batch n n"], function: SpectralFunction) -> Float[Tensor, "*batch n n"]:
    """f(A) of symmetric matrices, with first and second derivatives that are finite at equal eigenvalues.

    Raises:
        ValueError: NaN, infinity, or a matrix that is not symmetric (to the square root of the rounding unit).
        NotPositiveDefiniteError: an eigenvalue ≤ 0 where f needs positive ones.

    >>> matrix_log(torch.eye(3)).abs().max()
    tensor(0.)
    """
    return _Value.apply(symmetrize(require_symmetric(matrix)), function)


def function_derivative(
    matrix: Float[Tensor, "*#batch n n"], direction: Float[Tensor, "*#batch n n"], function: SpectralFunction
) -> Float[Tensor, "*#batch n n"]:
    """The directional derivative Df(A)[H] of `symmetric_function`; differentiable once in A and H, which broadcast."""
    matrix = symmetrize(require_symmetric(matrix))
    values, vectors = _decompose(matrix.detach(), function)
    matrix, direction = torch.broadcast_tensors(matrix, symmetrize(direction))
    return _Derivative.apply(matrix, direction, values, vectors, function)


def require_symmetric(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The matrix itself; raises ValueError where it is not symmetric to the square root of the rounding unit."""
    with torch.no_grad():
        scale = matrix.abs().amax() if matrix.numel() else matrix.new_zeros(())
        if matrix.numel() and (matrix - matrix.mT).abs().amax() > torch.finfo(matrix.dtype).eps ** 0.5 * scale:
            raise ValueError("the matrix is not symmetric; pass symmetrize(matrix) if it should be")
    return matrix


def check_spd(matrix: Float[Tensor, "*batch n n"], name: str = "matrix") -> None:
    """Raise unless every matrix is finite, symmetric and positive definite.

    Raises:
        NotPositiveDefiniteError: saying which, and by how much.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise NotPositiveDefiniteError(f"{name} holds NaN or infinity; remove or impute those entries first")
    try:
        require_symmetric(matrix)
    except ValueError as error:
        raise NotPositiveDefiniteError(f"{name}: {error}") from None
    if bool((torch.linalg.cholesky_ex(matrix).info > 0).any()):
        smallest = float(torch.linalg.eigvalsh(matrix).min())
        raise NotPositiveDefiniteError(
            f"{name} is not positive definite: its smallest eigenvalue is {smallest:.3g}; use shrinkage, S + εI"
        )


def matrix_log(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The logarithm of positive definite matrices."""
    return symmetric_function(matrix, LOG)


def matrix_exp(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The exponential of symmetric matrices."""
    return symmetric_function(matrix, EXP)


def matrix_power(matrix: Float[Tensor, "*batch n n"], exponent: float | int) -> Float[Tensor, "*batch n n"]:
    """A real power of positive definite matrices."""
    return symmetric_function(matrix, power(exponent))


def matrix_sqrt(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The positive square root of positive definite matrices."""
    return matrix_power(matrix, 0.5)


def matrix_inverse(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The inverse of positive definite matrices, symmetric to the last bit."""
    return matrix_power(matrix, -1)


class _Lyapunov(torch.autograd.Function):
    """The solve is its own adjoint in V, so its backward pass is the same function again."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, right: Tensor) -> Tensor:
        values, vectors = _decompose(matrix, _POSITIVE)
        scaled = (vectors.mT @ right @ vectors) / (values.unsqueeze(-1) + values.unsqueeze(-2))
        solution = _sandwich(vectors, scaled)
        ctx.save_for_backward(matrix, solution)
        return solution

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        matrix, solution = ctx.saved_tensors
        to_right = _Lyapunov.apply(matrix, grad)
        to_matrix = -(to_right @ solution.mT + solution.mT @ to_right)
        return symmetrize(to_matrix), to_right


_POSITIVE = SpectralFunction("a Lyapunov solve", lambda x: x, torch.ones_like, torch.zeros_like, positive=True)


def lyapunov(matrix: Float[Tensor, "*#batch n n"], right: Float[Tensor, "*#batch n n"]) -> Float[Tensor, "*#batch n n"]:
    """The solution L of P L + L P = V for positive definite P; differentiable any number of times."""
    return _Lyapunov.apply(*torch.broadcast_tensors(symmetrize(require_symmetric(matrix)), right))


def symmetric_to_vector(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch entries"]:
    """The upper triangle row by row, off-diagonal entries times √2, so that norms are kept: n(n+1)/2 entries."""
    n = matrix.shape[-1]
    rows, columns = torch.triu_indices(n, n, device=matrix.device)
    weights = torch.where(rows == columns, 1.0, matrix.new_tensor(2.0).sqrt())
    return matrix[..., rows, columns] * weights


def vector_to_symmetric(vector: Float[Tensor, "*batch entries"]) -> Float[Tensor, "*batch n n"]:
    """The inverse of `symmetric_to_vector`.

    Raises:
        ValueError: a length that is not n(n+1)/2.
    """
    entries = vector.shape[-1]
    n = int(((8 * entries + 1) ** 0.5 - 1) / 2)
    if n * (n + 1) // 2 != entries:
        raise ValueError(f"{entries} entries are not n(n+1)/2 for any n")
    rows, columns = torch.triu_indices(n, n, device=vector.device)
    weights = torch.where(rows == columns, 1.0, vector.new_tensor(0.5).sqrt())
    position = torch.empty(n, n, dtype=torch.long, device=vector.device)
    position[rows, columns] = position[columns, rows] = torch.arange(entries, device=vector.device)
    return (vector * weights)[..., position]
