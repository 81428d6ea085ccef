"""The attention of LFI-CAM, from METHODS F.11, in float64 and with loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def scaled(values: Floats) -> Floats:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def attention(maps: Floats, seen: Floats, scores: Callable[[Floats], list[float]]) -> Floats:
    """Of `(K, h, w)` maps and the resized `(h, w)` image; `scores` is the network before its softmax."""
    read = np.stack([scaled(channel) * seen for channel in maps])
    powers = [math.exp(score) for score in scores(read)]
    total = np.zeros_like(seen)
    for k, channel in enumerate(maps):
        total += powers[k] / sum(powers) * channel
    return scaled(np.maximum(total, 0))
