"""One FGSM step on one image, from METRICS §8: pixel by pixel, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def fgsm(image: Floats, gradient: Floats, epsilon: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Floats:
    """Undo the normalisation, step along the sign of the gradient by pixels, cut off at 0 and 1, normalise."""
    result = np.empty_like(image)
    for c, y, x in np.ndindex(*image.shape):
        pixel = image[c, y, x] * std[c] + mean[c]
        by_pixel = gradient[c, y, x] / std[c]
        if by_pixel > 0:
            pixel += epsilon
        elif by_pixel < 0:
            pixel -= epsilon
        result[c, y, x] = (min(max(pixel, 0.0), 1.0) - mean[c]) / std[c]
    return result
