r"""Linearizers: a matrix between two invertible networks, and the linear algebra that it brings along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.invertible import InvertibleNet

__all__ = ["Linearizer", "Projector", "SingularVectors", "add", "combine", "inner", "scale"]


def combine(
    g: InvertibleNet, weights: Sequence[float | int], samples: Sequence[Float[Tensor, "batch *shape"]]
) -> Float[Tensor, "batch *shape"]:
    r"""\(a_1 \odot x_1 \oplus a_2 \odot x_2 \oplus \dots = g^{-1}(\sum_i a_i\, g(x_i))\).

    Raises:
        ValueError: no samples, or not one weight for each.
    """
    if not samples or len(weights) != len(samples):
        raise ValueError(f"{len(weights)} weights for {len(samples)} samples: one each, and at least one")
    return g.inverse(torch.stack([a * g(x) for a, x in zip(weights, samples, strict=True)]).sum(0))


def add(
    g: InvertibleNet, x: Float[Tensor, "batch *shape"], z: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "batch *shape"]:
    r"""\(x \oplus z = g^{-1}(g(x) + g(z))\)."""
    return combine(g, (1, 1), (x, z))


def scale(g: InvertibleNet, x: Float[Tensor, "batch *shape"], factor: float | int) -> Float[Tensor, "batch *shape"]:
    r"""\(a \odot x = g^{-1}(a\, g(x))\)."""
    return combine(g, (factor,), (x,))


def inner(
    g: InvertibleNet, x: Float[Tensor, "batch *shape"], z: Float[Tensor, "batch *shape"]
) -> Float[Tensor, " batch"]:
    r"""\(\langle x, z \rangle_g = \langle g(x), g(z) \rangle\) of each pair."""
    return (g(x) * g(z)).sum(1)


class SingularVectors(NamedTuple):
    r"""Samples with \(f(v_i) = \sigma_i \odot u_i\), orthonormal in the induced inner products.

    Attributes:
        left: u, in the space of outputs; one sample each.
        values: σ, falling.
        right: v, in the space of inputs.
    """

    left: Tensor
    values: Float[Tensor, " rank"]
    right: Tensor


class Linearizer(nn.Module):
    r"""\(f(x) = g_y^{-1}(A\, g_x(x))\): nonlinear, and linear for the additions that \(g_x\) and \(g_y\) induce.

    Args:
        gx: invertible network of the inputs.
        matrix: A, (numbers of an output, numbers of an input). A parameter is trained; a plain tensor is kept fixed.
        gy: invertible network of the outputs; by default the inputs'.

    Raises:
        ValueError: a matrix whose sides are not the networks' widths.

    Source: Berman, Hallak & Shocher (2025), section 3.

    >>> g = InvertibleNet((2,), blocks=2, generator=torch.Generator().manual_seed(0))
    >>> turn = Linearizer(g, torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    >>> four = turn.compose(turn).compose(turn).compose(turn)
    >>> x = torch.tensor([[0.5, 2.0]])
    >>> bool(torch.allclose(four(x), x, atol=1e-5))
    True
    """

    def __init__(
        self, gx: InvertibleNet, matrix: Float[Tensor, "out_features in_features"], gy: InvertibleNet | None = None
    ) -> None:
        super().__init__()
        self.gx, self.gy = gx, gx if gy is None else gy
        wanted = (self.gy.features, self.gx.features)
        if tuple(matrix.shape) != wanted:
            raise ValueError(f"a matrix of {tuple(matrix.shape)} between networks of widths {wanted[1]} → {wanted[0]}: "
                             f"it must be {wanted}")  # fmt: skip
        if isinstance(matrix, nn.Parameter):
            self.weight = matrix
        else:
            self.register_buffer("weight", matrix.detach().clone())

    @property
    def matrix(self) -> Float[Tensor, "out_features in_features"]:
        """A."""
        return self.weight

    def forward(self, x: Float[Tensor, "batch *in_shape"]) -> Float[Tensor, "batch *out_shape"]:
        """f(x)."""
        return self.gy.inverse(self.gx(x) @ self.matrix.mT)

    def compose(self, other: Linearizer) -> Linearizer:
        """The map x ↦ self(other(x)), again one matrix: the product of the two.

        Raises:
            ValueError: the output network of `other` is not this one's input network.
        """
        if other.gy is not self.gx:
            raise ValueError("the two do not share a network: the first's output network must be the second's input "
                             "network, the very same module")  # fmt: skip
        return Linearizer(other.gx, self.matrix @ other.matrix, self.gy)

    def transpose(self) -> Linearizer:
        """The adjoint: ⟨f(x), y⟩ = ⟨x, f*(y)⟩ in the induced inner products."""
        return Linearizer(self.gy, self.matrix.mT, self.gx)

    def pinv(self, tolerance: float | int | None = None) -> Linearizer:
        """The pseudo-inverse: the least-squares solution of least norm, in the induced inner products.

        Args:
            tolerance: singular values below this share of the largest count as zero; by default the dtype's.
        """
        return Linearizer(self.gy, torch.linalg.pinv(self.matrix, rtol=tolerance), self.gx)

    def inverse(self) -> Linearizer:
        """The inverse map.

        Raises:
            ValueError: A is not square, or is singular to the dtype's precision.
        """
        matrix = self.matrix
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"a matrix of {tuple(matrix.shape)} has no inverse; pinv() is the pseudo-inverse")
        rank = int(torch.linalg.matrix_rank(matrix))
        if rank < len(matrix):
            raise ValueError(f"the matrix of side {len(matrix)} has rank {rank}: singular; use pinv()")
        return Linearizer(self.gy, torch.linalg.inv(matrix), self.gx)

    def svd(self) -> SingularVectors:
        """Singular vectors as samples, with the singular values of A."""
        u, values, vh = torch.linalg.svd(self.matrix, full_matrices=False)
        return SingularVectors(self.gy.inverse(u.mT), values, self.gx.inverse(vh))


class Projector(Linearizer):
    r"""\(f = g^{-1} D g\) with D diagonal of zeros and ones: f(f(x)) = f(x) for every x, trained or not.

    Coordinate i is kept where its logit is positive; the gradient passes to the logits as if the step were a sigmoid.

    Args:
        g: invertible network.
        logits: one for each latent coordinate; trained.

    Raises:
        ValueError: not one logit for each coordinate.

    Source: Berman, Hallak & Shocher (2025), section on idempotent networks.
    """

    def __init__(self, g: InvertibleNet, logits: Float[Tensor, " features"]) -> None:
        if tuple(logits.shape) != (g.features,):
            raise ValueError(f"{tuple(logits.shape)} logits for latents of width {g.features}: one each")
        super().__init__(g, torch.eye(g.features, dtype=logits.dtype, device=logits.device))
        self.logits = nn.Parameter(logits.detach().clone())

    @property
    def matrix(self) -> Float[Tensor, "features features"]:
        """D."""
        soft = torch.sigmoid(self.logits)
        # the bracket is zero exactly, and only it has a gradient
        hard = (self.logits > 0).to(soft.dtype)
        return torch.diag(hard + (soft - soft.detach()))
