"""BAM's attribution of an object, for one sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def object_attribution(attribution: Floats, mask: NDArray[np.bool_]) -> float:
    """Mean over the mask of the positive parts summed over channels, clipped at the 99th percentile and scaled."""
    _, height, width = attribution.shape
    grey = np.zeros((height, width))
    for channel in attribution:
        for i in range(height):
            for j in range(width):
                grey[i, j] += max(channel[i, j], 0.0)
    low, high = grey.min(), np.percentile(grey, 99)
    inside = [min((grey[i, j] - low) / (high - low), 1.0) for i in range(height) for j in range(width) if mask[i, j]]
    return sum(inside) / len(inside)
