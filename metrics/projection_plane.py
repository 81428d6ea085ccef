"""All directions of the plane in which the outlyingness of a point can be largest.

Between two directions in which the median, or the median deviation, passes from one point to another, both are linear
in the direction. The outlyingness is then a ratio of two linear forms, which is monotone along the arc: its supremum
is attained where a pass happens. These directions depend on the sample alone.

They are found arc by arc. How far a projection can move within an arc is known, so only few points can be the median
within it; the passes among these few are enumerated, and some more than needed do no harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .median_mad import MedianRule

Floats = NDArray[np.float64]

_SLACK = 1e-12  # rounding of projections, as a share of the largest distance from the centre
_SAME_ANGLE = 1e-12


class Critical(NamedTuple):
    """Directions `(J, 2)` of a half circle with the median and the MAD `(J,)` of the sample along each."""

    directions: Floats
    median: Floats
    mad: Floats


class _Arc(NamedTuple):
    """From `start` to `stop`, within which the median is the projection of the point `center` `(2,)`."""

    start: float
    stop: float
    center: Floats


def critical_directions(points: Floats, rule: MedianRule, tick: Callable[[int], object]) -> Critical:
    """Find where the median or the MAD of the projections of `(n, 2)` points can pass from one point to another.

    Args:
        points: the sample, of comparable extent in all directions.
        rule: of the medians, see `median_mad`.
        tick: called with the number of the `len(points)` arcs that are done.

    Returns:
        The directions, in order of their angle.
    """
    n = len(points)
    middle = ((n - 1) // 2, n // 2)
    deviation = middle if rule == "average" else (n // 2, n // 2)
    found: list[tuple[Floats, Floats, Floats]] = []
    for arc in _median_arcs(points, middle, tick):
        angles, mad = _passes(points, arc, deviation)
        found.append((angles, _on(angles) @ arc.center, mad))
    angles, median, mad = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Critical(_on(angles), median, mad)


def _median_arcs(points: Floats, ranks: tuple[int, int], tick: Callable[[int], object]) -> Iterator[_Arc]:
    """Arcs of the half circle, each with the point, or the middle of the two points, that is the median there."""
    edges = np.linspace(0.0, math.pi, len(points) + 1)
    for start, stop in pairwise(edges.tolist()):
        few, below = _candidates(points, None, start, stop, ranks)
        cuts = np.concatenate(([start], _meetings(few, few, start, stop), [stop]))
        order = np.argsort(_on((cuts[1:] + cuts[:-1]) / 2) @ few.T, axis=1)
        pairs = order[:, [ranks[0] - below, ranks[1] - below]]
        changes = np.flatnonzero((pairs[1:] != pairs[:-1]).any(axis=1)) + 1
        for first, last in zip([0, *changes], [*changes, len(pairs)], strict=True):
            yield _Arc(float(cuts[first]), float(cuts[last]), few[pairs[first]].mean(axis=0))
        tick(1)


def _passes(points: Floats, arc: _Arc, ranks: tuple[int, int]) -> tuple[Floats, Floats]:
    """Angles of an arc, its ends among them, at which the MAD can pass on, and the MAD there."""
    few, below = _candidates(points, arc.center, arc.start, arc.stop, ranks)
    few = few - arc.center
    inside = (_meetings(few, sign * few, arc.start, arc.stop) for sign in (1.0, -1.0))
    angles = np.unique(np.concatenate(([arc.start], *inside, [arc.stop])))
    deviations = np.sort(np.abs(_on(angles) @ few.T), axis=1)
    return angles, deviations[:, [ranks[0] - below, ranks[1] - below]].mean(axis=1)


def _candidates(
    points: Floats, center: Floats | None, start: float, stop: float, ranks: tuple[int, int]
) -> tuple[Floats, int]:
    """Points that can have one of the ranks somewhere in an arc, and how many are below all of them.

    Ranks are those of the projections or, with a center, of their distances from its projection.
    """
    away = points if center is None else points - center
    length = np.hypot(away[:, 0], away[:, 1])
    reach = length * (2 * math.sin((stop - start) / 4)) + _SLACK * length.max()
    value = away @ _on(np.array([(start + stop) / 2]))[0]
    if center is not None:
        value = np.abs(value)
    lower, upper = value - reach, value + reach
    least, most = np.partition(lower, ranks[0])[ranks[0]], np.partition(upper, ranks[1])[ranks[1]]
    return points[(upper >= least) & (lower <= most)], int(np.count_nonzero(upper < least))


def _meetings(a: Floats, b: Floats, start: float, stop: float) -> Floats:
    """Sorted angles within the arc at which the projections of any `a[i]` and `b[j]`, i ≠ j, meet; equal ones once."""
    i, j = np.triu_indices(len(a), 1)
    apart = a[i] - b[j]
    apart = apart[(apart != 0).any(axis=1)]
    angles = np.mod(np.arctan2(apart[:, 1], apart[:, 0]) + math.pi / 2, math.pi)
    angles = np.sort(angles[(angles > start) & (angles < stop)])
    return angles[np.unique((angles / _SAME_ANGLE).round(), return_index=True)[1]]


def _on(angles: Floats) -> Floats:
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)
