"""Rigid motions of images: turned, moved and mirrored, never scaled, as SITE is trained under."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_rigid(count: int) -> Tensor:
    """Draw `(count, 2, 3)` matrices `[R | b]`: angle in U(-90°, 90°), each shift in U(-0.5, 0.5) (half a side is 1)."""
    return rigid((torch.rand(count) - 0.5) * math.pi, torch.rand(count, 2) - 0.5)


def randomly_mirrored(images: Tensor) -> Tensor:
    """Mirror each of `(B, C, H, W)` images left to right with probability 0.5."""
    chosen = (torch.rand(len(images)) < 0.5).to(images.device)
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def rigid(angles: Tensor, shifts: Tensor) -> Tensor:
    """Build `(B, 2, 3)` matrices `[R | b]` from `(B,)` angles in radians and `(B, 2)` shifts (x, y).

    They map output to input positions, in the coordinates of `torch.nn.functional.affine_grid`.
    """
    cos, sin = angles.cos(), angles.sin()
    rotations = torch.stack((cos, -sin, sin, cos), dim=1).view(-1, 2, 2)
    return torch.cat((rotations, shifts[:, :, None]), dim=2)


def inverse(matrices: Tensor) -> Tensor:
    """Invert `(B, 2, 3)` rigid matrices: `[R' | -R' b]`, `R'` being the transpose of `R`."""
    back = matrices[:, :, :2].transpose(1, 2)
    return torch.cat((back, -back @ matrices[:, :, 2:]), dim=2)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample `(B, C, H, W)` bilinearly by `(B, 2, 3)` matrices, `align_corners=True`; outside of the image is 0."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def warp_filled(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample as `warp`, and give pixels wholly from outside of the image the smallest value of all results.

    SITE's release does so on CIFAR-10, to every value that is exactly 0 after resampling; one that is 0 inside of the
    image stays 0 here.

    Example:
        >>> moved = warp_filled(torch.ones(1, 1, 3, 3) - 3, rigid(torch.zeros(1), torch.tensor([[1.0, 0.0]])))
        >>> bool((moved == -2).all())
        True
    """
    moved = warp(images, matrices)
    outside = warp(torch.ones_like(images[:, :1]), matrices) <= 0
    return torch.where(outside, moved.min(), moved)
