"""SITE's comparison of class prototypes with examples of their classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .rigid_motion import inverse, warp


def draw_examples(labels: Tensor, n_classes: int) -> Tensor:
    """Draw for every sample one row of the batch from each class: `(B, n_classes)`, -1 where the batch has none."""
    rows = torch.full((len(labels), n_classes), -1, dtype=torch.int64, device=labels.device)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        rows[:, label] = members[torch.randint(len(members), (len(labels),)).to(members.device)]
    return rows


def prototype_loss(prototypes: Tensor, matrices: Tensor, images: Tensor, examples: Tensor) -> Tensor:
    """Compare prototypes, moved back, with example images of their classes: the mean binary cross-entropy.

    Args:
        prototypes: `(B, K, C, H, W)` in (0, 1), of the images transformed by `matrices`.
        matrices: `(B, 2, 3)` rigid transformations.
        images: `(B, C, H, W)` untransformed, in [0, 1]; or their latent maps, brought to that range.
        examples: `(B, K)` rows of `images`, one of each class, -1 where there is none (`draw_examples`).

    Returns:
        Scalar, the mean over all `B * K * C * H * W` elements. An element counts as 0 where there is no example or
        where moving back mixes in anything from outside of the prototype.
    """
    back = inverse(matrices)
    moved = warp(prototypes.flatten(1, 2), back).view_as(prototypes)
    inside = warp(torch.ones_like(images[:, :1]), back)[:, None] > 0.999
    counts = inside & (examples >= 0)[:, :, None, None, None]
    return cross_entropy(moved, images[examples], counts)


def cross_entropy(prototypes: Tensor, examples: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the mean binary cross-entropy of values in [0, 1], in float32 at least.

    Args:
        prototypes: `(B, K, C, H, W)`.
        examples: likewise.
        counts: bool, of a shape that expands to theirs: where it is false an element counts as 0.
    """
    # Rounding in the interpolation can exceed 1, which the BCE refuses; under autocast it would refuse altogether.
    with torch.autocast(prototypes.device.type, enabled=False):
        kind = torch.promote_types(prototypes.dtype, torch.float32)
        weight = None if counts is None else counts.to(kind).expand_as(prototypes)
        return F.binary_cross_entropy(prototypes.to(kind).clamp(0, 1), examples.to(kind), weight=weight)
