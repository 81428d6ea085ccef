"""The consistency loss of Pillai & Pirsiavash, sample by sample and cell by cell, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def composite(image: Array, others: Sequence[Array], cell: int) -> Array:
    """`(C, 2H, 2W)`: the image in its cell, the others in the remaining ones in reading order."""
    waiting = list(others)
    parts = [image if place == cell else waiting.pop(0) for place in range(4)]
    top = np.concatenate(parts[:2], axis=2)
    return np.concatenate((top, np.concatenate(parts[2:], axis=2)), axis=1)


def gradient_of_logit(features: Array, weights: Array, head: str) -> Array:
    """What a change of each feature does to the logit `weights · pool(features)`."""
    channels, height, width = features.shape
    gradient = np.zeros_like(features)
    for k in range(channels):
        if head == "gap":
            gradient[k] = weights[k] / (height * width)
        else:
            gradient[k][np.unravel_index(features[k].argmax(), (height, width))] = weights[k]
    return gradient


def explanation(features: Array, weights: Array, head: str, kind: str) -> Array:
    """Grad-CAM or element-wise Grad-CAM, rectified and divided by its sum."""
    gradient = gradient_of_logit(features, weights, head)
    channels, height, width = features.shape
    found = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            total = 0.0
            for k in range(channels):
                slope = gradient[k].mean() if kind == "gradcam" else gradient[k, i, j]
                total += slope * features[k, i, j]
            found[i, j] = max(0.0, total)
    return found / (found.sum() + 1e-8)


def loss(
    images: Array,
    targets: Sequence[int],
    others: Sequence[Sequence[int]],
    cells: Sequence[int],
    features_of: Callable[[Array], Array],
    weights: Array,
    *,
    head: str,
    kind: str,
    reduction: str,
) -> float:
    """Mean over samples of the mean (or the sum) over cells of `|explanation on the composite − pasted explanation|`.

    `features_of` maps a batch of images to their features; it is asked once for the images and once for the composites.
    """
    cases = zip(images, others, cells, strict=True)
    composites = np.stack([composite(image, [images[o] for o in chosen], cell) for image, chosen, cell in cases])
    alone, together = features_of(images), features_of(composites)
    values = []
    for n, (target, cell) in enumerate(zip(targets, cells, strict=True)):
        single = explanation(alone[n], weights[target], head, kind)
        combined = explanation(together[n], weights[target], head, kind)
        height, width = single.shape
        wanted = np.zeros((2 * height, 2 * width))
        top, left = (cell // 2) * height, (cell % 2) * width
        wanted[top : top + height, left : left + width] = single
        difference = np.abs(combined - wanted)
        values.append(difference.mean() if reduction == "mean" else difference.sum())
    return float(np.mean(values))
