"""The inverse of a damped sum of outer products of the last few gradients, never formed."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["WindowInverse"]

_CHUNK = 2**14


class WindowInverse:
    r"""\(F^{-1}\) for \(F = \lambda I + s \sum_i g_i g_i^\top\) over the last m vectors \(g_i\) of length d.

    With \(G\) the matrix of the held vectors as rows and \(c = \lambda / s\),

    \[ F^{-1} = \tfrac1\lambda\bigl(I - G^\top (c I + G G^\top)^{-1} G\bigr). \]

    The vectors lie in a ring buffer of m × d numbers beside their m × m Gram matrix in float64. A push replaces the
    oldest vector at cost O(dm), the first product after it adds a Cholesky factorization O(m³), and each product
    with a vector costs O(dm). Nothing of size d × d exists, and no second copy of the buffer.

    Args:
        window: m, how many vectors are kept.
        size: d, their length.
        damp: λ > 0.
        average: ``"mean"``: s is one over the number of vectors held (a Fisher matrix). ``"sum"``: s = 1.

    Raises:
        ValueError: window or size below 1, damp not positive and finite, or an unknown average.

    Source: M-FAC (Frantar, Kurtic & Alistarh, 2021), the dynamic algorithm; its recursion is the elimination that
    the Cholesky factorization does.

    >>> inverse = WindowInverse(2, 3, damp=0.5, average="sum").push(torch.tensor([1.0, 0.0, 0.0]))
    >>> inverse.solve(torch.tensor([3.0, 1.0, 0.0]))
    tensor([2., 2., 0.])
    """

    def __init__(
        self,
        window: int,
        size: int,
        damp: float | int,
        *,
        average: Literal["mean", "sum"] = "mean",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if window < 1 or size < 1:
            raise ValueError(f"window={window} and size={size}: both are at least 1")
        if not 0 < damp < float("inf"):
            raise ValueError(f"damp={damp} must be positive and finite: without it the matrix has no inverse")
        if average not in ("mean", "sum"):
            raise ValueError(f"average={average!r} is neither 'mean' nor 'sum'")
        self.damp, self.average = float(damp), average
        self.rows = torch.zeros(window, size, dtype=dtype, device=device)
        self.gram = torch.zeros(window, window, dtype=torch.float64, device=device)
        self.held = 0
        self.pushed = 0
        self._factor: Tensor | None = None

    @classmethod
    def of(
        cls, vectors: Float[Tensor, "window size"], damp: float | int, *, average: Literal["mean", "sum"] = "mean"
    ) -> WindowInverse:
        """The inverse for given vectors, which are used as the buffer itself, not copied.

        Raises:
            ValueError: as the constructor, or a vector that is NaN or infinite.
        """
        inverse = cls(max(1, len(vectors)), 1, damp, average=average, dtype=vectors.dtype, device=vectors.device)
        if not torch.isfinite(vectors.sum()):
            raise ValueError("the vectors hold NaN or infinite numbers")
        inverse.rows = vectors
        inverse.gram = (vectors @ vectors.mT).double()
        inverse.held = inverse.pushed = len(vectors)
        return inverse

    def push(self, vector: Float[Tensor, " size"]) -> WindowInverse:
        """Put a vector in the place of the oldest; returns itself.

        Raises:
            ValueError: another length, or NaN or infinite numbers; the window is then unchanged.
        """
        if vector.shape != self.rows.shape[1:]:
            raise ValueError(f"a vector of shape {tuple(vector.shape)} for a window of length {self.rows.shape[1]}")
        if not torch.isfinite(vector.sum()):
            raise ValueError("the vector holds NaN or infinite numbers; the window is unchanged")
        place = self.pushed % len(self.rows)
        self.rows[place] = vector
        products = _products(self.rows, self.rows[place])
        self.gram[place], self.gram[:, place] = products, products
        self.pushed += 1
        self.held = min(self.held + 1, len(self.rows))
        self._factor = None
        return self

    @property
    def newest(self) -> int:
        """The place in the buffer of the vector pushed last."""
        return (self.pushed - 1) % len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer and the matrices beside it."""
        return self.rows.nbytes + 2 * self.gram.nbytes

    @property
    def scale(self) -> float:
        """s: what the sum of outer products is multiplied by."""
        return 1.0 if self.average == "sum" else 1.0 / max(1, self.held)

    def _cholesky(self) -> Float[Tensor, "held held"]:
        if self._factor is None:
            core = self.gram[: self.held, : self.held].clone()
            core.diagonal().add_(self.damp / self.scale)
            self._factor = torch.linalg.cholesky(core)
        return self._factor

    def solve(self, x: Float[Tensor, " size"]) -> Float[Tensor, " size"]:
        r"""\(F^{-1} x\).

        Raises:
            ValueError: another length.
        """
        if x.shape != self.rows.shape[1:]:
            raise ValueError(f"a vector of shape {tuple(x.shape)} for a window of length {self.rows.shape[1]}")
        if not self.held:
            return x / self.damp
        rows = self.rows[: self.held]
        inner = torch.cholesky_solve(_products(rows, x.to(rows.dtype)).unsqueeze(1), self._cholesky())
        return torch.addmv(x.to(rows.dtype), rows.mT, inner[:, 0].to(rows.dtype), alpha=-1) / self.damp

    def solve_newest(self) -> Float[Tensor, " size"]:
        r"""\(F^{-1} g\) for the vector pushed last, as \(\tfrac1s G^\top (cI + GG^\top)^{-1} e\).

        No difference of nearly equal numbers is taken, so that it keeps full accuracy in float32 however small λ is;
        ``solve(g)`` does not.

        Raises:
            ValueError: nothing was pushed.
        """
        if not self.held:
            raise ValueError("the window is empty: push a vector first")
        unit = torch.zeros(self.held, 1, dtype=torch.float64, device=self.rows.device)
        unit[self.newest] = 1 / self.scale
        inner = torch.cholesky_solve(unit, self._cholesky())[:, 0]
        return self.rows[: self.held].mT @ inner.to(self.rows.dtype)

    def whitened(self, columns: slice | Tensor = slice(None)) -> Float[Tensor, "held columns"]:
        r"""\(V = L^{-1} G\), \(L L^\top = cI + GG^\top\), so that \(F^{-1} = (I - V^\top V)/\lambda\): any element of
        the inverse is then one product of two columns of length m.

        Args:
            columns: for which coordinates; all of them make a second copy of the buffer.
        """
        picked = self.rows[: self.held, columns]
        return torch.linalg.solve_triangular(self._cholesky().to(picked.dtype), picked, upper=False)

    def diag(self) -> Float[Tensor, " size"]:
        r"""The diagonal of \(F^{-1}\), in O(dm²), by blocks of coordinates."""
        size = self.rows.shape[1]
        out = torch.full_like(self.rows[0], 1 / self.damp)
        if self.held:
            for start in range(0, size, _CHUNK):
                part = slice(start, min(start + _CHUNK, size))
                out[part] -= self.whitened(part).square().sum(0) / self.damp
        return out

    def element(self, i: int, j: int) -> Float[Tensor, ""]:
        r"""One element \([F^{-1}]_{ij}\), in O(m²); for many elements take `whitened` once, then O(m) each.

        Raises:
            IndexError: an index outside the vectors.
        """
        size = self.rows.shape[1]
        if not (-size <= i < size and -size <= j < size):
            raise IndexError(f"element ({i}, {j}) of a matrix of size {size}")
        unit = self.rows.new_tensor(float(i % size == j % size))
        if not self.held:
            return unit / self.damp
        a, b = self.whitened(torch.tensor([i, j], device=self.rows.device)).unbind(1)
        return (unit - a @ b) / self.damp


def _products(rows: Float[Tensor, "held size"], x: Float[Tensor, " size"]) -> Float[Tensor, " held"]:
    """``rows @ x``, block after block, added up in float64: a float32 sum over a million terms loses four digits."""
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, len(x), _CHUNK):
        total += rows[:, start : start + _CHUNK] @ x[start : start + _CHUNK]
    return total
