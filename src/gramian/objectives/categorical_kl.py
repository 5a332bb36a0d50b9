"""The divergence between a posterior and a prior over categorical variables, balanced between the two."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["balanced_kl", "categorical_kl"]


def categorical_kl(
    first: Float[Tensor, "*batch groups classes"], second: Float[Tensor, "*batch groups classes"]
) -> Float[Tensor, "*batch"]:
    r"""\(\sum_g \mathrm{KL}(p_g \,\|\, q_g)\) in nats, of independent categorical variables given by logits.

    >>> import torch
    >>> certain, even = torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> categorical_kl(certain, even)  # ln 2
    tensor(0.6931)
    """
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    return (p.exp() * (p - q)).sum((-1, -2))


def balanced_kl(
    posterior: Float[Tensor, "*batch groups classes"],
    prior: Float[Tensor, "*batch groups classes"],
    mask: Bool[Tensor, "*batch"] | None = None,
    *,
    free_bits: float | int = 1.0,
    representation: float | int = 0.1,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""The loss that draws a prior to a posterior, and the posterior, less strongly, to the prior.

    \[ \max(f, \mathrm{KL}(\bar p \,\|\, q)) + \rho \max(f, \mathrm{KL}(p \,\|\, \bar q)) \]

    where a bar stops the gradient and KL is the mean over the batch. Below f, neither side is drawn further.

    Args:
        mask: what counts in the mean; everything by default.
        free_bits: f, in nats (the name is the literature's).
        representation: ρ.

    Returns:
        the loss, and the mean divergence without gradient.

    Raises:
        ValueError: negative free bits or weight, or a mask that leaves nothing.

    Source: Wang et al., "Drama" (2024); the balance is Hafner et al.'s (2023).
    """
    if free_bits < 0 or representation < 0:
        raise ValueError(f"free_bits={free_bits}, representation={representation}: neither may be negative")
    if mask is not None and not bool(mask.any()):
        raise ValueError("the mask leaves no element to take the mean over")

    def mean(values: Tensor) -> Tensor:
        return values.mean() if mask is None else values[mask].mean()

    dynamics = mean(categorical_kl(posterior.detach(), prior))
    encoding = mean(categorical_kl(posterior, prior.detach()))
    return dynamics.clamp(min=free_bits) + representation * encoding.clamp(min=free_bits), dynamics.detach()
