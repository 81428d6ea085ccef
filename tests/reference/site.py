"""SITE's training losses, for MNIST and for CIFAR-10, in float64 and with loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def loss(
    images: Array,
    labels: Sequence[int],
    angles: Sequence[float],
    shifts: Sequence[tuple[float, float]],
    examples: Sequence[Sequence[int]],
    prototypes_of: Callable[[Array], Array],
    weight: float,
) -> tuple[float, Array]:
    """Return the loss and the `(B, K)` logits; `prototypes_of` is the network, `examples` has -1 for "none"."""
    size = len(images)
    forth = [(rotation(angles[b]), np.array(shifts[b])) for b in range(size)]
    back = [(turn.T, -turn.T @ shift) for turn, shift in forth]
    moved = np.stack([resample(images[b], *forth[b]) for b in range(size)])
    prototypes = prototypes_of(moved)
    classes = prototypes.shape[1]
    logits = np.array([[float((prototypes[b, c] * moved[b]).sum()) for c in range(classes)] for b in range(size)])
    classification = sum(
        math.log(sum(math.exp(z - row[y]) for z in row)) for row, y in zip(logits, labels, strict=True)
    )
    distance, count = 0.0, 0
    for b in range(size):
        whole = resample(np.ones_like(images[b]), *back[b]) > 0.999
        for c in range(classes):
            prototype = resample(prototypes[b, c], *back[b])
            for place in np.ndindex(prototype.shape):
                count += 1
                if examples[b][c] >= 0 and whole[place]:
                    p, t = prototype[place], images[examples[b][c]][place]
                    distance -= t * math.log(p) + (1 - t) * math.log(1 - p)
    return classification / size + weight * distance / count, logits


def latent_loss(
    images: Array,
    labels: Sequence[int],
    angles: Sequence[float],
    shifts: Sequence[tuple[float, float]],
    examples: Sequence[Sequence[int]],
    latents_of: Callable[[Array], Array],
    prototypes_of: Callable[[Array], Array],
    weight: float,
    *,
    along: Sequence[int] | None,
) -> tuple[float, Array]:
    """Return the loss and the `(B, K)` logits of a form with a latent map; every batch goes through `latents_of` whole.

    `along` is `None` to move prototypes back; or the classes to compare, their examples being moved like the input.
    """
    size = len(images)
    forth = [(rotation(angles[b]), np.array(shifts[b])) for b in range(size)]
    latent = latents_of(filled([resample(images[b], *forth[b]) for b in range(size)], forth))
    prototypes = prototypes_of(latent)
    logits = np.array([[float((one * latent[b]).sum()) for one in prototypes[b]] for b in range(size)])
    classification = sum(
        math.log(sum(math.exp(z - row[y]) for z in row)) for row, y in zip(logits, labels, strict=True)
    )
    total, count = 0.0, 0
    if along is None:
        wanted = latents_of(images)
        for b in range(size):
            back = (forth[b][0].T, -forth[b][0].T @ forth[b][1])
            whole = resample(np.ones_like(latent[b]), *back) > 0.999
            for c in range(prototypes.shape[1]):
                count += latent[b].size
                if examples[b][c] >= 0:
                    found = (resample(prototypes[b, c], *back) + 1) / 2
                    total += entropy(found[whole], (wanted[examples[b][c]][whole] + 1) / 2)
    else:
        pairs = [(b, c) for b in range(size) for c in along]
        turns = [forth[b] for b, _ in pairs]
        moved = [resample(images[examples[b][c]], *forth[b]) for b, c in pairs]
        for (b, c), wanted in zip(pairs, latents_of(filled(moved, turns)), strict=True):
            count += wanted.size
            total += entropy((prototypes[b, c] + 1) / 2, (wanted + 1) / 2)
    return classification / size + weight * total / count, logits


def filled(moved: list[Array], matrices: list[tuple[Array, Array]]) -> Array:
    """Give pixels that lie wholly outside the smallest value of all."""
    smallest = min(image.min() for image in moved)
    seen = [resample(np.ones_like(image), *matrix) for image, matrix in zip(moved, matrices, strict=True)]
    return np.stack([np.where(s > 0, image, smallest) for image, s in zip(moved, seen, strict=True)])


def entropy(found: Array, wanted: Array) -> float:
    """Sum of binary cross-entropies."""
    return float(-(wanted * np.log(found) + (1 - wanted) * np.log(1 - found)).sum())


def rotation(angle: float) -> Array:
    """Return the 2×2 rotation matrix that acts on columns (x, y)."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def resample(image: Array, turn: Array, shift: Array) -> Array:
    """Read a `(C, H, W)` image at `turn @ (x, y) + shift` for all places; ±1 are the outermost pixel centres."""
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for channel, row, column in np.ndindex(channels, height, width):
        x, y = turn @ np.array([2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1]) + shift
        result[channel, row, column] = bilinear(image[channel], (y + 1) * (height - 1) / 2, (x + 1) * (width - 1) / 2)
    return result


def bilinear(plane: Array, row: float, column: float) -> float:
    """Interpolate between the four pixels around a place; outside of the plane all pixels are 0."""
    total = 0.0
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < plane.shape[0] and 0 <= c < plane.shape[1]:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * plane[r, c]
    return total
