"""A neural additive model, from METHODS F.3, in float64 and with loops."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def contributions(
    values: list[float], weight: Floats, centre: Floats, output: Floats, varies: list[bool], *, units: str
) -> list[list[float]]:
    """`(P, K)` f for one sample."""
    found = []
    for i, value in enumerate(values):
        sums = [0.0] * output.shape[2]
        if varies[i]:
            for u in range(weight.shape[1]):
                if units == "exu":
                    hidden = min(max((value - centre[i, u]) * math.exp(weight[i, u]), 0.0), 1.0)
                else:
                    hidden = max((value - centre[i, u]) * weight[i, u], 0.0)
                for c in range(len(sums)):
                    sums[c] += hidden * float(output[i, u, c])
        found.append(sums)
    return found
