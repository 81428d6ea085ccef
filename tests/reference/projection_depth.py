"""Projection depth written from its definition: sorted lists, all angles of the plane, no geometry shared."""

from __future__ import annotations

from itertools import pairwise
from math import atan2, cos, pi, sin

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def middle(values: list[float], *, upper: bool = False) -> float:
    """The median of some numbers: of two middle ones their mean, or the upper one."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 or upper else (ordered[half - 1] + ordered[half]) / 2


def outlyingness(x: Floats, sample: Floats, direction: Floats, *, rule: str = "average") -> float:
    """How many MADs the projection of x lies from the median projection."""
    along = [float(point @ direction) for point in sample]
    center = middle(along)
    spread = middle([abs(value - center) for value in along], upper=rule == "datadepth")
    away = abs(float(x @ direction) - center)
    return away / spread if spread > 1e-12 else (np.inf if away > 1e-9 else 0.0)


def depth_along(x: Floats, sample: Floats, directions: Floats) -> float:
    """The lowest depth that any of the directions shows."""
    return min(1 / (1 + outlyingness(x, sample, direction)) for direction in directions)


def planar_depth(x: Floats, sample: Floats, *, rule: str = "average") -> float:
    """The depth in the plane: the definition at every angle where two projections or two deviations swap."""
    angles = {0.0, pi}
    for i in range(len(sample)):
        for j in range(i):
            angles |= orthogonal(sample[i] - sample[j])
    ends = sorted(angles)
    for start, stop in pairwise(ends):  # here the order of the projections does not change
        u = unit((start + stop) / 2)
        order = sorted(range(len(sample)), key=lambda k, u=u: float(sample[k] @ u))
        half = len(sample) // 2
        center = sample[order[half]] if len(sample) % 2 else (sample[order[half - 1]] + sample[order[half]]) / 2
        for i in range(len(sample)):
            for j in range(i):
                angles |= {a for a in orthogonal(sample[i] + sample[j] - 2 * center) if start < a < stop}
    return depth_along_plane(x, sample, sorted(angles), rule)


def depth_along_plane(x: Floats, sample: Floats, angles: list[float], rule: str) -> float:
    """The lowest depth at any of the angles."""
    return min(1 / (1 + outlyingness(x, sample, unit(angle), rule=rule)) for angle in angles)


def orthogonal(v: Floats) -> set[float]:
    """The angle in [0, π) of the line orthogonal to a vector; none for the zero vector."""
    return {(atan2(v[1], v[0]) + pi / 2) % pi} if np.abs(v).max() > 1e-12 else set()


def unit(angle: float) -> Floats:
    """The direction of an angle."""
    return np.array([cos(angle), sin(angle)])
