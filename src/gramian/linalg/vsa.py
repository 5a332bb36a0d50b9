"""Vector symbolic spaces: items are random vectors, roles are random matrices, structure is their algebra.

A bundle is a sum; binding a role to a vector is a matrix product, so that it can be repeated (M M x) and
does not commute (Mₐ M_b x ≠ M_b Mₐ x). With orthogonal matrices it keeps norms and angles exactly at any
depth and is undone by the transpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.manifold import orthogonal
from gramian.linalg.signal.hadamard import fwht

__all__ = ["KINDS", "NotOrthogonalError", "Space"]

KINDS = ("haar", "householder", "hd", "gauss", "multiply", "convolve")
"""What a role is: a uniform orthogonal matrix; a product of reflections; three rounds of signs and Hadamard
transform; a Gaussian matrix; and, for comparison, two bindings that commute: elementwise signs, and circular
convolution with a unitary vector (holographic reduced representations)."""

Apply = Callable[[Tensor, bool], Tensor]


class NotOrthogonalError(ValueError):
    """Unbinding was asked of a space whose roles are not orthogonal."""


class Space:
    """A vector symbolic space.

    Everything in it is a function of (dim, seed, kind, name): two processes agree without exchanging
    anything.

    Args:
        dim: length of the vectors; a power of two for kind "hd".
        seed: distinguishes spaces.
        kind: one of `KINDS`. "haar" and "householder" cost O(d²) a product, "hd"
            O(d log d).
        reflections: number of reflections, for kind "householder"; d by default. With few, the
            product is close to the identity and two such roles almost commute.
        dtype: of the vectors.

    Raises:
        ValueError: an unknown kind, or a dim that does not suit it.

    Source: Gallant and Okaywe, "Representing Objects, Relations, and Sequences" (2013), for binding by matrices;
    Gallant, "Orthogonal Matrices for MBAT Vector Symbolic Architectures" (2022), for orthogonal ones.

    >>> space = Space(512)
    >>> record = space.bundle([space.bind("colour", space.item("red")), space.bind("shape", space.item("cube"))])
    >>> space.cleanup(space.unbind("shape", record), ["red", "cube", "ball"])
    ('cube',)
    """

    def __init__(
        self,
        dim: int,
        seed: int = 0,
        kind: str = "haar",
        *,
        reflections: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
        if dim < 2 or (kind == "hd" and dim & (dim - 1)):
            raise ValueError(f"dim={dim}: at least 2, and for kind='hd' a power of two")
        if reflections is not None and not 1 <= reflections <= dim:
            raise ValueError(f"reflections={reflections} is not between 1 and dim={dim}")
        self.dim, self.seed, self.kind, self.dtype = dim, seed, kind, dtype
        self.reflections = dim if reflections is None else reflections
        self._items: dict[str, Tensor] = {}
        self._roles: dict[str, Apply] = {}

    def _generator(self, what: str, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}\0{what}\0{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def item(self, name: str) -> Float[Tensor, " dim"]:
        """The unit vector of a name: a normalized Gaussian sample."""
        if name not in self._items:
            vector = torch.randn(self.dim, generator=self._generator("item", name), dtype=self.dtype)
            self._items[name] = vector / vector.norm()
        return self._items[name]

    def items(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        """The vectors of several names, as rows."""
        return torch.stack([self.item(name) for name in names])

    @property
    def orthogonal(self) -> bool:
        """Whether unbinding is exact."""
        return self.kind != "gauss"

    def bind(self, role: str, x: Float[Tensor, "*batch dim"], times: int = 1) -> Float[Tensor, "*batch dim"]:
        """M x, the role's matrix applied `times` times."""
        return self._apply(role, x, times, False)

    def unbind(self, role: str, x: Float[Tensor, "*batch dim"], times: int = 1) -> Float[Tensor, "*batch dim"]:
        """Mᵀ x, which undoes `bind`.

        Raises:
            NotOrthogonalError: the space is of kind "gauss".
        """
        if not self.orthogonal:
            raise NotOrthogonalError(
                "the transpose of a Gaussian matrix does not undo it; use kind='haar', 'householder' or 'hd'"
            )
        return self._apply(role, x, times, True)

    def _apply(self, role: str, x: Tensor, times: int, transpose: bool) -> Tensor:
        if times < 0:
            raise ValueError(f"times={times} must not be negative")
        if role not in self._roles:
            self._roles[role] = getattr(self, f"_{self.kind}")(self._generator("role", role))
        for _ in range(times):
            x = self._roles[role](x, transpose)
        return x

    def bundle(self, vectors: Sequence[Tensor] | Float[Tensor, "terms *batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The sum of the vectors."""
        return torch.stack(tuple(vectors)).sum(0)

    def cleanup(self, x: Float[Tensor, "*batch dim"], names: Sequence[str]) -> tuple[str, ...]:
        """The name, of those given, whose item has the largest cosine with each row of x."""
        best = (x.reshape(-1, self.dim) @ self.items(names).mT).argmax(dim=-1)
        return tuple(names[i] for i in best.tolist())

    # the kinds of role: each returns (x, transpose) → M x or Mᵀ x

    def _dense(self, matrix: Tensor) -> Apply:
        return lambda x, transpose: x @ (matrix if transpose else matrix.mT)

    def _haar(self, generator: torch.Generator) -> Apply:
        return self._dense(orthogonal.haar(self.dim, generator, dtype=self.dtype))

    def _gauss(self, generator: torch.Generator) -> Apply:
        return self._dense(torch.randn(self.dim, self.dim, generator=generator, dtype=self.dtype) / self.dim**0.5)

    def _householder(self, generator: torch.Generator) -> Apply:
        vectors = torch.randn(self.dim, self.reflections, generator=generator, dtype=self.dtype)
        return self._dense(orthogonal.householder_product(vectors))

    def _signs(self, generator: torch.Generator, *shape: int) -> Tensor:
        return (2 * torch.randint(2, shape, generator=generator) - 1).to(self.dtype)

    def _hd(self, generator: torch.Generator) -> Apply:
        rounds = self._signs(generator, 3, self.dim)

        def apply(x: Tensor, transpose: bool) -> Tensor:
            for signs in reversed(rounds) if transpose else rounds:
                x = signs * fwht(x) if transpose else fwht(signs * x)
            return x

        return apply

    def _multiply(self, generator: torch.Generator) -> Apply:
        signs = self._signs(generator, self.dim)
        return lambda x, transpose: signs * x

    def _convolve(self, generator: torch.Generator) -> Apply:
        spectrum = torch.fft.rfft(torch.randn(self.dim, generator=generator, dtype=self.dtype))
        spectrum = spectrum / spectrum.abs()

        def apply(x: Tensor, transpose: bool) -> Tensor:
            return torch.fft.irfft(torch.fft.rfft(x) * (spectrum.conj() if transpose else spectrum), n=self.dim)

        return apply
