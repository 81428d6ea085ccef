"""SENN's penalties, from METHODS F.1, in float64, with numerical derivatives and loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def jacobian(function: Callable[[Floats], Floats], point: Floats, step: float = 1e-6) -> Floats:
    """`(outputs, inputs)`, by central differences."""
    columns = []
    for i in range(point.size):
        moved = np.zeros_like(point)
        moved.reshape(-1)[i] = step
        columns.append((function(point + moved) - function(point - moved)).reshape(-1) / (2 * step))
    return np.stack(columns, axis=1)


def differences(
    outputs: Callable[[Floats], Floats], concepts: Callable[[Floats], Floats], weights: Floats, image: Floats
) -> list[float]:
    """The elements of `∂f/∂x − θ' ∂h/∂x` for one image; `weights` is `(n, K)`."""
    slopes, parts = jacobian(outputs, image), jacobian(concepts, image)
    found = []
    for c in range(len(slopes)):
        for i in range(image.size):
            linear = sum(weights[j, c] * parts[j, i] for j in range(len(weights)))
            found.append(float(slopes[c, i] - linear))
    return found


def norm(values: list[float]) -> float:
    return math.sqrt(sum(value**2 for value in values))
