"""The rules of composite relevance propagation (METHODS E.2) for single layers, in float64 and with loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
EPSILON = 1e-6


def stabilised(total: float) -> float:
    """Return `z + ε sign z`; the sign of 0 is positive."""
    return total - EPSILON if total < 0 else total + EPSILON


def linear(inputs: Array, weight: Array, bias: Array, relevance: Array) -> Array:
    """LRP-ε for inputs `(I,)`, weight `(O, I)`, bias `(O,)` and relevance `(O,)`."""
    handed = np.zeros_like(inputs)
    for k in range(len(relevance)):
        total = sum(inputs[j] * weight[k, j] for j in range(len(inputs))) + bias[k]
        for j in range(len(inputs)):
            handed[j] += inputs[j] * weight[k, j] / stabilised(total) * relevance[k]
    return handed


def convolution(
    inputs: Array,
    weight: Array,
    relevance: Array,
    *,
    stride: int,
    padding: int,
    bounds: tuple[float, float] | None = None,
) -> Array:
    """LRP-α1β0, or `z^B` with bounds, for `(C, H, W)`, weight `(O, C, k, k)` and relevance `(O, H', W')`."""
    handed = np.zeros_like(inputs)
    for o, row, column in np.ndindex(*relevance.shape):
        parts: dict[tuple[int, int, int], float] = {}
        for c, i, j in np.ndindex(*weight.shape[1:]):
            place = (c, row * stride + i - padding, column * stride + j - padding)
            if 0 <= place[1] < inputs.shape[1] and 0 <= place[2] < inputs.shape[2]:
                x, w = inputs[place], weight[o, c, i, j]
                if bounds is None:
                    parts[place] = max(0.0, x * w)
                else:
                    parts[place] = x * w - bounds[0] * max(w, 0) - bounds[1] * min(w, 0)
        total = sum(parts.values())
        for place, part in parts.items():
            handed[place] += part / stabilised(total) * relevance[o, row, column]
    return handed


def average_pool(inputs: Array, relevance: Array) -> Array:
    """LRP-ε for averages over 2×2 cells of `(C, H, W)`."""
    handed = np.zeros_like(inputs)
    for c, row, column in np.ndindex(*relevance.shape):
        cell = [(c, 2 * row + i, 2 * column + j) for i in (0, 1) for j in (0, 1)]
        total = sum(inputs[place] / 4 for place in cell)
        for place in cell:
            handed[place] += inputs[place] / 4 / stabilised(total) * relevance[c, row, column]
    return handed
