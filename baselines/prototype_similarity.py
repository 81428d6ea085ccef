"""How near a representation is to prototypes, and which of its elements make it so."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 1e4
"""The similarity at distance 0 is the logarithm of this."""
_SMALLEST_SQUARE = 1e-4


def similarity(distances: Tensor) -> Tensor:
    """Turn distances `d ≥ 0` into similarities `log((d + 1) / (d + 1e-4))`, from `log 1e4` at `d = 0` down to 0.

    ProtoPNet puts squared distances in, ProtoVAE and KMEx distances.

    Example:
        >>> similarity(torch.tensor([0.0, 1.0]))
        tensor([9.2103, 0.6930])
    """
    return torch.log((distances + 1) / (distances + 1 / _LARGEST))


def euclidean_distances(latents: Tensor, prototypes: Tensor) -> Tensor:
    """Return `(B, P)` Euclidean distances of `(B, L)` latents from `(P, L)` prototypes, not squared.

    The gradient is 0 where a distance is 0. Distances are taken from differences, not from inner products, so that
    they are exact for near points and do not depend on the rest of the batch.

    Example:
        >>> euclidean_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[5., 0.]])
    """
    return torch.linalg.vector_norm(latents[:, None] - prototypes, dim=2)


def latent_shares(latents: Tensor, prototypes: Tensor) -> Tensor:
    """Say how much of the similarity to each prototype is due to each element of a latent.

    `r_l = 1 / ((z_l - p_l)^2 + 1e-4)`, divided by the sum of `r` over the elements: those that agree best with the
    prototype get most.

    Args:
        latents: `(B, L)`.
        prototypes: `(P, L)`.

    Returns:
        `(B, P, L)`, positive, adding up to 1 over the last axis.

    Reference:
        S. Gautam et al., "This looks more like that: Enhancing self-explaining models by prototypical relevance
        propagation", Pattern Recognition 136, 2023.

    Example:
        >>> latent_shares(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
        tensor([[[0.5000, 0.5000]]])
    """
    closeness = 1 / ((latents[:, None] - prototypes).square() + _SMALLEST_SQUARE)
    return closeness / closeness.sum(dim=2, keepdim=True)
