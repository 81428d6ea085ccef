"""Masked self-consistency for one sample, written from METRICS §1."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from .warps import place_of_matrix, valid_region, warp

Floats = NDArray[np.float64]


def masked_cosine(a: Floats, b: Floats, mask: NDArray[np.bool_]) -> float:
    """Cosine over the pixels of the mask; 0 for a map without any."""
    dot = first = second = 0.0
    for i, j in np.argwhere(mask):
        dot += a[i, j] * b[i, j]
        first += a[i, j] ** 2
        second += b[i, j] ** 2
    return dot / (sqrt(first) * sqrt(second)) if first and second else 0.0


def draws(heatmap: Floats, explained: list[Floats], matrices: Floats) -> tuple[list[float], list[float]]:
    """Masked and unmasked cosine of each draw, from the map of x and the maps of `T(x)`."""
    masked, unmasked = [], []
    for matrix, of_moved in zip(matrices, explained, strict=True):
        size = (heatmap.shape[0], heatmap.shape[1])
        place = place_of_matrix(matrix, size)
        moved = warp(heatmap[None], place, np.zeros(1))[0]
        masked.append(masked_cosine(moved, of_moved, valid_region(place, size)))
        unmasked.append(masked_cosine(moved, of_moved, np.ones(size, dtype=bool)))
    return masked, unmasked
