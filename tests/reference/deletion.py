"""Insertion and deletion for one sample, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from math import exp

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def probability(logits: Floats, target: int) -> float:
    """Exponential of the logit, divided by the sum of all."""
    top = max(logits)
    weights = [exp(z - top) for z in logits]
    return weights[target] / sum(weights)


def most_relevant(heatmap: Floats) -> list[tuple[int, int]]:
    """All pixels, the largest value first; no ties."""
    pixels = [(i, j) for i in range(heatmap.shape[0]) for j in range(heatmap.shape[1])]
    return sorted(pixels, key=lambda pixel: -heatmap[pixel])


def curve(
    start: Floats, end: Floats, heatmap: Floats, target: int, model: Callable[[Floats], Floats], fractions: list[float]
) -> list[float]:
    """Probability of the class while the most relevant pixels of `start` become those of `end`."""
    values = []
    for fraction in fractions:
        image = start.copy()
        for i, j in most_relevant(heatmap)[: round(fraction * heatmap.size)]:
            image[:, i, j] = end[:, i, j]
        values.append(probability(model(image), target))
    return values
