"""Top-k, relevance rank and change of resolution for one sample, written from METRICS §3: every pixel in Python."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def largest_inside(heatmap: Floats, mask: Bools, k: int, permutation: list[int]) -> int:
    """Of the k largest values how many are inside; equal ones in the order of a permutation of the pixels."""
    values, inside = heatmap.ravel().tolist(), mask.ravel().tolist()
    order = sorted(range(len(values)), key=lambda pixel: (-values[pixel], permutation.index(pixel)))
    return sum(inside[pixel] for pixel in order[:k])


def at_resolution(heatmap: Floats, height: int, width: int) -> Floats:
    """Bilinear interpolation between pixel centres; beyond the outermost centres, the outermost value."""
    result = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * heatmap.shape[0] / height - 0.5, 0), heatmap.shape[0] - 1)
            x = min(max((j + 0.5) * heatmap.shape[1] / width - 0.5, 0), heatmap.shape[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, heatmap.shape[0] - 1), min(left + 1, heatmap.shape[1] - 1)
            upper = heatmap[top, left] * (1 - (x - left)) + heatmap[top, right] * (x - left)
            lower = heatmap[bottom, left] * (1 - (x - left)) + heatmap[bottom, right] * (x - left)
            result[i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return result
