"""Blurring images as two matrix products, which give the same bits on every run and every device."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels; near the border its weights are rescaled to add up to 1.

    Args:
        images: `(..., H, W)` floating point.
        sigma: standard deviation; 0 leaves the images as they are.

    Example:
        >>> gaussian_blur(torch.tensor([[0.0, 1.0, 0.0]]), 0.5)
        tensor([[0.1192, 0.7870, 0.1192]])
    """
    if sigma == 0:
        return images
    return _weights(images, images.shape[-2], sigma) @ images @ _weights(images, images.shape[-1], sigma).mT


def _weights(images: Tensor, side: int, sigma: float) -> Tensor:
    """`(side, side)`: how much of every pixel goes into every other along an axis."""
    places = torch.arange(side, dtype=torch.float64, device=images.device)
    weights = ((places[:, None] - places) / sigma).square().mul(-0.5).exp()
    return (weights / weights.sum(dim=1, keepdim=True)).to(images.dtype)
