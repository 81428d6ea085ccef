"""Mask-k-pixels for one sample, written from METRICS §2."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from .warps import place_of_matrix, warp

Floats = NDArray[np.float64]


def log_odds(logits: Floats, target: int) -> float:
    """Logit of the class minus the logarithm of the summed exponentials of the others."""
    others = [float(z) for j, z in enumerate(logits) if j != target]
    top = max(others)
    return float(logits[target]) - top - log(sum(exp(z - top) for z in others))


def mask(image: Floats, heatmap: Floats, count: int, fill: Floats, *, most: bool) -> Floats:
    """Fill the `count` least (or most) relevant pixels of a `(C, H, W)` image, one after another; no ties."""
    values = {(i, j): heatmap[i, j] for i in range(heatmap.shape[0]) for j in range(heatmap.shape[1])}
    result = image.copy()
    for _ in range(count):
        pixel = max(values, key=values.__getitem__) if most else min(values, key=values.__getitem__)
        del values[pixel]
        result[:, pixel[0], pixel[1]] = fill
    return result


def curves(
    image: Floats,
    heatmap: Floats,
    label: int,
    model: Callable[[Floats], Floats],
    *,
    fractions: tuple[float, ...],
    matrix: Floats | None,
    fill: Floats,
    most: bool = False,
) -> tuple[list[float], list[float]]:
    """Accuracy and log-odds at every fraction."""
    size = (heatmap.shape[0], heatmap.shape[1])
    accuracy, odds = [], []
    for fraction in fractions:
        masked = mask(image, heatmap, round(fraction * heatmap.size), fill, most=most)
        moved = masked if matrix is None else warp(masked, place_of_matrix(matrix, size), fill)
        logits = model(moved)
        accuracy.append(float(int(np.argmax(logits)) == label))
        odds.append(log_odds(logits, label))
    return accuracy, odds


def area(values: list[float], fractions: tuple[float, ...]) -> float:
    """Area under straight lines between the points."""
    total = 0.0
    for k in range(1, len(values)):
        total += (values[k - 1] + values[k]) / 2 * (fractions[k] - fractions[k - 1])
    return total
