"""Sobel magnitude of the grey image, written out pixel by pixel in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def edges(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `(H, W)` magnitudes of a `(C, H, W)` image that goes on beyond its border as it is at the border."""
    _, height, width = image.shape
    kernel = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            across = down = 0.0
            for u in range(3):
                for v in range(3):
                    row, column = min(max(i + u - 1, 0), height - 1), min(max(j + v - 1, 0), width - 1)
                    grey = float(np.mean(image[:, row, column]))
                    across += kernel[u][v] * grey
                    down += kernel[v][u] * grey
            result[i, j] = np.sqrt(across**2 + down**2)
    return result
